"""Width pruning of a tree (BranchGRPO, arXiv 2509.06040)."""

from typing import Literal

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.sampling.shape import Shape


class Width(Selection):
    """Of the transitions at and after the last forks: `best`, those below each fork's best child; `extremes`, the share
    `fraction` with the highest and the same share with the lowest advantages. What lies before the last forks stays.

    A child's worth is the mean advantage of the transitions from it on. (The published mode 1 keeps the earlier half of the
    steps instead, since the advantages that it compares are equal.)
    """

    keep: Literal["best", "extremes"] = "best"
    fraction: float = Field(default=0.25, gt=0.0, le=0.5)

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        tails = [self._tail(tree.shape, path) for path in tree.shape.trajectories]
        chosen = np.ones(len(tree.shape.nodes), bool)
        after = [node for tail in tails for node in tail]
        chosen[after] = False
        if self.keep == "extremes":
            order = sorted(after, key=lambda node: float(advantage[node]))
            count = max(1, int(self.fraction * len(after)))
            chosen[[*order[:count], *order[-count:]]] = True
            return chosen
        forks: dict[int | None, list[list[int]]] = {}
        for tail in tails:
            forks.setdefault(tree.shape.nodes[tail[0]].parent, []).append(tail)
        for siblings in forks.values():
            chosen[max(siblings, key=lambda tail: float(advantage[tail].mean()))] = True
        return chosen

    @staticmethod
    def _tail(shape: Shape, path: tuple[int, ...]) -> list[int]:
        """The part of a trajectory from its last fork on."""
        forked = [i for i, node in enumerate(path) if len(_siblings(shape, node)) > 1]
        return list(path[forked[-1] :])

    def complaint(self, shape: Shape) -> str | None:
        if all(any(len(_siblings(shape, node)) > 1 for node in path) for path in shape.trajectories):
            return None
        return f"selection '{self.type}' prunes what follows forks, and the plan has none"


def _siblings(shape: Shape, node: int) -> list[int]:
    parent = shape.nodes[node].parent
    return [i for i in shape.children[parent] if shape.nodes[i].trained] if parent is not None else [node]
