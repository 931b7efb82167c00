"""The best and the worst members of a group (DanceGRPO's best-of-N)."""

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.sampling.shape import Shape


class BestWorst(Selection):
    """The trajectories with the `keep` / 2 highest and the `keep` / 2 lowest mean advantages."""

    keep: int = Field(default=8, ge=2, multiple_of=2)

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        order = np.argsort([advantage[list(path)].mean() for path in tree.shape.trajectories], kind="stable")
        chosen = np.zeros(len(tree.shape.nodes), bool)
        for member in (*order[: self.keep // 2], *order[-self.keep // 2 :]):
            chosen[list(tree.shape.trajectories[member])] = True
        return chosen

    def complaint(self, shape: Shape) -> str | None:
        count = len(shape.trajectories)
        if self.keep <= count:
            return None
        return f"selection '{self.type}' keeps {self.keep} trajectories, but a group has only {count}"
