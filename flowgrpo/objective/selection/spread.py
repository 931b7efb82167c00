"""Groups whose rewards differ (ReST-GRPO's filter, arXiv 2508.19576, as in its code)."""

from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection


class Spread(Selection):
    """All of a group, or nothing where the deviation of its samples' rewards is below `least`.

    The published method also begins answers as the best one of a prompt did: `rollout.context` `prefix`, for texts.
    """

    least: PositiveFloat = 0.05
    drops_silence: ClassVar[bool] = True

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        spread = float(tree.rewards[list(tree.shape.outcomes)].std())
        return np.full(len(advantage), spread >= self.least)
