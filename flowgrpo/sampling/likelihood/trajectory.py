"""The recorded trajectory (MDPO, TraceRL): each step is scored at the state that it left."""

from typing import Literal

import numpy as np

from flowgrpo.sampling.likelihood import Likelihood, Masks


class Trajectory(Likelihood):
    """Exact for the ids drawn, given the positions. No network evaluation beyond the rollout's. A part of the steps is trained
    with `selection: [{type: step_fraction}]`."""

    level: Literal["decision"] = "decision"

    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        raise AssertionError("a trajectory is scored at the states that it went through")
