"""The steps at which the members of a group differ most (MDPO, arXiv 2508.13148)."""

import numpy as np
from pydantic import PositiveInt

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.sampling.shape import Shape


class TopSteps(Selection):
    """The `keep` steps with the largest sum of |advantage| over the group; ties go to the earlier step."""

    keep: PositiveInt = 8

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        steps = np.array([node.step for node in tree.shape.nodes])
        trained = list(tree.shape.trained)
        sums = np.bincount(steps[trained], np.abs(advantage[trained]))
        chosen = np.argsort(-sums, kind="stable")[: self.keep]
        return np.isin(steps, chosen)

    def complaint(self, shape: Shape) -> str | None:
        count = len({shape.nodes[i].step for i in shape.trained})
        if self.keep <= count:
            return None
        return f"selection '{self.type}' keeps {self.keep} steps, but only {count} are trained"
