"""Finished samples of a pipeline, noised anew.

Shapes: C samples of a block, N levels of a grid, K of them for each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.keys import Key, Noise, numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.protocol import Posed
from flowgrpo.sampling.laws.matching import MatchingLaw
from flowgrpo.sampling.levels import Schedule
from flowgrpo.sampling.matching import Matching


@dataclass(frozen=True)
class Posing:
    """`schedule` and `predict` are of the steps whose levels are drawn. Samples of one level are evaluated together, a sample at
    its second visit of it apart, so that a batch has each sample once."""

    matching: Matching
    schedule: Callable[[Sequence[Prompt]], Schedule]
    predict: Callable[[Tensor, Sequence[Prompt], int], Tensor]
    together: int = 1

    def __call__(
        self, outcomes: Tensor, prompts: Sequence[Prompt], keys: Sequence[Key], groups: Sequence[Key]
    ) -> Iterator[Posed]:
        schedule = self.schedule(prompts)
        sigmas = np.array([schedule.step(i).as_flow().sigma for i in range(len(schedule.timesteps))])
        drawn = {group: self._drawn(sigmas, (*group, "levels")) for group in {*groups}}
        for level, visit in sorted({visit for visits in drawn.values() for visit in visits}):
            rows = [row for row, group in enumerate(groups) if (level, visit) in drawn[group]]
            noise_of = keys if self.matching.noise == "own" else groups
            noises = [Noise((*noise_of[row], "noise", level, visit)).draw(outcomes.shape[1:]) for row in rows]
            weight = self._weight(float(sigmas[level]))
            noised = torch.stack(noises).to(outcomes.device)
            states, law = _noised(outcomes[rows], noised, schedule, level, weight, self.matching.power)
            parent = torch.arange(len(rows), device=outcomes.device)
            yield Posed(states, parent, law, rows, level, 1.0 / self.matching.levels.count)

    def _weight(self, sigma: float) -> float:
        return {"one": 1.0, "sigma": sigma, "sigma_squared": sigma**2}[self.matching.weight]

    def _drawn(self, sigmas: np.ndarray, key: Key) -> set[tuple[int, int]]:
        """The levels of a group; one that is drawn again is another visit."""
        places = self.matching.levels.drawn(sigmas, numpy_generator(key))
        return {(place, places[:i].count(place)) for i, place in enumerate(places)}


def _noised(
    x0: Tensor, noises: Tensor, schedule: Schedule, level: int, weight: float, power: float
) -> tuple[Tensor, MatchingLaw]:
    a, s = schedule.mixture(level)
    p, q, _, _ = schedule.ends(level)
    law = MatchingLaw(*(torch.full((len(x0),), value, device=x0.device) for value in (p, q, weight, power)))
    return a * x0 + s * schedule.noise * noises, law
