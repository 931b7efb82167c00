"""Every step stochastic (Flow-GRPO, DanceGRPO)."""

from typing import Literal

import numpy as np

from flowgrpo.sampling.plans._steps import StepsPlan


class AllSteps(StepsPlan):
    """Steps 0 .. S - 2; the last one is deterministic, since its noise would stay in the picture."""

    type: Literal["all"] = "all"

    def stochastic_steps(self, steps: int, update: int, rng: np.random.Generator) -> list[int]:
        return list(range(steps - 1))

    def window_complaint(self, steps: int) -> str | None:
        return None if steps > 1 else "plan 'all' needs at least 2 steps, since the last one is deterministic"
