"""The samples whose rewards differ most (D3S, its first half; PODS, arXiv 2504.13818)."""

import numpy as np

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.objective.selection._ramp import Ramp


class MostVaried(Selection):
    """Of a group's samples those few whose rewards have the largest variance: some of the best and some of the worst. What leads
    to none of them is not trained."""

    share: Ramp = Ramp(first=0.25, last=0.75)

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        outcomes = np.array(tree.shape.outcomes)
        kept = {*outcomes[most_varied(tree.rewards[outcomes], self.share.of(len(outcomes), update))].tolist()}
        return np.array([any(leaf in kept for leaf in below) for below in tree.shape.outcomes_below])


def most_varied(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` values with the largest variance, which are k of the largest and count - k of the smallest ones; the
    most even split of several that do as well."""
    order = np.argsort(values, kind="stable")
    splits = [np.concatenate([order[: count - k], order[len(order) - k :]]) for k in range(count + 1)]
    splits.sort(key=lambda split: abs(2 * np.isin(split, order[: len(order) // 2]).sum() - count))
    return max(splits, key=lambda split: values[split].var())
