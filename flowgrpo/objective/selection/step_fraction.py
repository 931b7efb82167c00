"""A random part of every trajectory's steps (DanceGRPO, arXiv 2505.07818)."""

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection


class StepFraction(Selection):
    """max(1, floor(`fraction` w)) of the w trained steps of each trajectory, drawn anew in each update."""

    fraction: float = Field(default=0.6, gt=0.0, le=1.0)

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        chosen = np.zeros(len(tree.shape.nodes), bool)
        for path in tree.shape.trajectories:
            chosen[rng.permutation(path)[: max(1, int(self.fraction * len(path)))]] = True
        return chosen
