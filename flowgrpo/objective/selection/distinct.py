"""Samples that differ enough from those on the other side (DaGRPO, arXiv 2512.06337, reconstructed)."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection


class Distinct(Selection):
    """A sample stays where one on the other side of the group's mean reward differs from it by `share` standard deviations of the
    group or more; what leads to none that stays is not trained. Whom a baseline brings along belongs to the group too.

    The abstract says that pairs of low distinctiveness are masked, not by which score, from what on, or when a sample goes with
    them: here it is the reward, and all pairs of a sample. Advantages are not made anew from the samples that stay.
    """

    share: float = Field(default=0.5, gt=0.0)
    reads_company: ClassVar[bool] = True

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        outcomes = np.array(tree.shape.outcomes)
        samples = tree.rewards[outcomes]
        group = np.append(samples, tree.company)
        apart = np.abs(samples[:, None] - group) >= max(self.share * group.std(), tree.rounding)
        across = (samples > group.mean())[:, None] != (group > group.mean())
        kept = {*outcomes[(apart & across).any(1)].tolist()}
        return np.array([any(leaf in kept for leaf in below) for below in tree.shape.outcomes_below])
