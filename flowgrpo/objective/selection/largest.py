"""The transitions with the largest advantages (D3S, its second half)."""

from typing import Literal

import numpy as np

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.objective.selection._ramp import Ramp


class Largest(Selection):
    """A share of a group's trained transitions, those with the largest |advantage|, or with `by: entropy` |advantage| times the
    mean entropy of what the transition's ids were drawn from; the earlier ones where it is the same.

    The paper chooses ids one by one; here those of a transition are chosen together.
    """

    share: Ramp = Ramp(first=0.2, last=1.0)
    by: Literal["advantage", "entropy"] = "advantage"

    @property
    def needs_entropy(self) -> bool:
        return self.by == "entropy"

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        trained = np.array(tree.shape.trained)
        size = np.abs(advantage[trained]) * (tree.entropy[trained] if self.needs_entropy else 1.0)
        order = np.argsort(-size, kind="stable")
        chosen = np.zeros(len(advantage), bool)
        chosen[trained[order[: self.share.of(len(trained), update)]]] = True
        return chosen
