"""The transitions with the largest advantages (D3S, its second half)."""

import numpy as np

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.objective.selection._ramp import Ramp


class Largest(Selection):
    """A share of a group's trained transitions, those with the largest |advantage|; the earlier ones where it is the same.

    The paper weighs |advantage| by the entropy of an id, which a transition of many ids has no single one of.
    """

    share: Ramp = Ramp(first=0.2, last=1.0)

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        trained = np.array(tree.shape.trained)
        order = np.argsort(-np.abs(advantage[trained]), kind="stable")
        chosen = np.zeros(len(advantage), bool)
        chosen[trained[order[: self.share.of(len(trained), update)]]] = True
        return chosen
