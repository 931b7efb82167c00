"""What the rest of a group says of a transition: its peers are those of the same step whose draws do not depend on its own.

So whatever is made of peers is a baseline, or a weight, without bias. n transitions of a step; values are [..., n].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flowgrpo.sampling.shape import Shape


@dataclass(frozen=True)
class Peers:
    """The trained `nodes` of a step, and who is a peer of whom: `mask` [n, n], row i for node i."""

    nodes: list[int]
    mask: np.ndarray

    @cached_property
    def count(self) -> np.ndarray:
        """[n]"""
        return self.mask.sum(1)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """[..., n]: the mean over each node's peers, 0 where it has none."""
        return values @ self.mask.T / np.maximum(self.count, 1)

    def deviations(self, values: np.ndarray) -> np.ndarray:
        """[..., n, n]: in row i what each peer of i differs by from their mean, 0 for the others."""
        return np.where(self.mask, values[..., None, :] - self.mean(values)[..., :, None], 0.0)


def peers(shape: Shape) -> Iterator[Peers]:
    """By step. Nothing at a step descends from another transition of it, so all are peers but for siblings with common noise."""
    steps = {shape.nodes[i].step for i in shape.trained}
    for step in sorted(steps):
        nodes = [i for i in shape.trained if shape.nodes[i].step == step]
        parent = np.array([shape.nodes[i].parent for i in nodes])
        common = np.array([shape.nodes[i].correlation > 0.0 for i in nodes])
        tied = (parent[:, None] == parent) & common
        yield Peers(nodes, ~(tied | np.eye(len(nodes), dtype=bool)))


def ratio(numerator: np.ndarray, denominator: np.ndarray, where: np.ndarray, otherwise: float) -> np.ndarray:
    """numerator / denominator, or `otherwise`."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, otherwise), where=where)
