"""Depth pruning of a tree (BranchGRPO, arXiv 2509.06040)."""

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.sampling.shape import Shape


class Depth(Selection):
    """The transitions of `size` steps are left out: a window that begins at step `first` and moves by one, every `every`
    updates, towards step `last`, where it stays.

    The released code moves it towards the noise (`first` > `last`), the paper describes the other way; both are possible.
    """

    size: PositiveInt = 4
    first: NonNegativeInt = 15
    last: NonNegativeInt = 9
    every: PositiveInt = 30

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        direction = 1 if self.last > self.first else -1
        begin = self.first + direction * min(update // self.every, abs(self.last - self.first))
        return np.array([not begin <= node.step - 1 < begin + self.size for node in tree.shape.nodes])

    def complaint(self, shape: Shape) -> str | None:
        steps = {shape.nodes[i].step - 1 for i in shape.trained}
        for begin in (self.first, self.last):
            if steps <= set(range(begin, begin + self.size)):
                return f"selection '{self.type}' of {self.size} steps from step {begin} on leaves nothing to train"
        return None
