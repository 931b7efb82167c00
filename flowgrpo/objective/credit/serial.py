"""Answers at exits on the way, the earliest right one worth most (S-GRPO, arXiv 2505.07686, reconstructed for masked models)."""

import numpy as np

from flowgrpo.core.rounding import rounding
from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_every_value
from flowgrpo.sampling.shape import Shape


class Serial(Credit):
    """The exits of a sample are the completions of its states. The k-th right one, of value at least `right`, is worth
    2^-(k - 1) of its value, a wrong one nothing. A step gets the sum, over the exits at or behind it, of (worth - mean) /
    deviation, both of the sample's own exits.

    For a model that writes from left to right an exit ends the thought, and all that came before it is trained with its
    advantage; so a step is trained with those of all exits behind it. Here an exit fills all masks at once
    (`completion: {steps: 1}`), and what it fills in is not trained. The credit is centred already: use `advantage: {mean: none,
    std: none}`.
    """

    right: float = 1.0

    def assign(self, tree: ScoredTree) -> Credited:
        """A transition that several trajectories share gets their mean."""
        count, credit = np.zeros((2, len(tree.shape.nodes)))
        for path in map(list, tree.shape.trajectories):
            count[path] += 1.0
            credit[path] += self._along(tree.along(path)[1:])
        count[count == 0.0] = np.nan
        return Credited(credit / count)

    def _along(self, values: np.ndarray) -> np.ndarray:
        """[w] for the steps to w exits with these values."""
        right = values >= self.right - rounding(np.array(self.right))
        earlier: np.ndarray = np.cumsum(right) - right
        worth = np.where(right, values * 0.5**earlier, 0.0)
        spread = worth.std()
        if spread <= rounding(worth):
            return np.zeros(len(values))
        return np.cumsum(((worth - worth.mean()) / spread)[::-1])[::-1]

    def complaint(self, shape: Shape) -> str | None:
        return needs_every_value(f"credit '{self.type}'", shape)
