"""What a segment between two forks adds (Segment Policy Optimization, arXiv 2505.23564, its tree)."""

from typing import Literal

import numpy as np

from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.objective.credit._forks import fork_above, needs_forks
from flowgrpo.sampling.shape import Shape


class Segment(Credit):
    """V(x') - V(fork above x'), V the mean of the children's V and at an outcome its reward; 0 above the first fork.

    `per: deviation` divides by the deviation of the fork's children. Centred already: use `advantage: {mean: none, std: none}`.
    """

    per: Literal["one", "deviation"] = "one"

    def assign(self, tree: ScoredTree) -> Credited:
        values, above = backed_up(tree), fork_above(tree.shape)
        credit = np.zeros(len(values))
        for i, fork in enumerate(above):
            if fork is not None:
                credit[i] = (values[i] - values[fork]) / self._scale(tree, values, fork)
        return Credited(credit)

    def _scale(self, tree: ScoredTree, values: np.ndarray, fork: int) -> float:
        if self.per == "one":
            return 1.0
        spread = float(values[_sampled(tree.shape, fork)].std())
        return spread if spread > tree.rounding else 1.0

    def complaint(self, shape: Shape) -> str | None:
        return needs_forks(f"credit '{self.type}'", shape)


def backed_up(tree: ScoredTree) -> np.ndarray:
    """[N]: values from the outcomes up; NaN where no outcome lies below."""
    values = np.full(len(tree.shape.nodes), np.nan)
    values[list(tree.shape.outcomes)] = tree.rewards[list(tree.shape.outcomes)]
    for i in reversed(range(len(values))):
        if tree.shape.outcomes_below[i] and (children := _sampled(tree.shape, i)):
            values[i] = values[children].mean()
    return values


def _sampled(shape: Shape, node: int) -> list[int]:
    """The children that lead to outcomes."""
    return [child for child in shape.children[node] if shape.outcomes_below[child]]
