"""Terminal credit: what came out in the end."""

from typing import Literal

import numpy as np

from flowgrpo.credit import Credit, ScoredTree


class Terminal(Credit):
    """The mean reward of the leaves below a transition; on a trajectory without forks, its final reward."""

    type: Literal["terminal"] = "terminal"

    def assign(self, tree: ScoredTree) -> np.ndarray:
        return np.array([tree.rewards[list(leaves)].mean() for leaves in tree.shape.descendant_leaves])
