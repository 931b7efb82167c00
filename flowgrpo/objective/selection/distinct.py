"""Samples that differ enough from those on the other side (DaGRPO, arXiv 2512.06337, reconstructed)."""

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection


class Distinct(Selection):
    """A sample stays where one on the other side of the group's mean reward differs from it by `share` standard deviations of the
    group or more; what leads to none that stays is not trained.

    The abstract says that pairs of low distinctiveness are masked, not by which score, from what on, or when a sample goes with
    them: here it is the reward, and all pairs of a sample. Advantages are not made anew from the samples that stay, and no better
    answer from elsewhere joins a group without one.
    """

    share: float = Field(default=0.5, gt=0.0)

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        outcomes = np.array(tree.shape.outcomes)
        rewards = tree.rewards[outcomes]
        above = rewards > rewards.mean()
        apart = np.abs(rewards[:, None] - rewards) >= max(self.share * rewards.std(), tree.rounding)
        kept = {*outcomes[(apart & (above[:, None] != above)).any(1)].tolist()}
        return np.array([any(leaf in kept for leaf in below) for below in tree.shape.outcomes_below])
