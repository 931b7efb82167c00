"""Generalised advantage estimation (arXiv 1506.02438)."""

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_values
from flowgrpo.objective.credit.gain import before
from flowgrpo.sampling.shape import Shape


class Gae(Credit):
    """G(x') - V(x), with V(x) the value of the nearest state before the step, and G the lambda-return: the value itself after the
    last step, and (1 - lambda) V(x') + lambda G(x'') where a step follows.

    lambda is `decay`, without discount: the sum of lambda^k times the k-th gain from here on. With 1 it is the final reward less
    V(x), which does not depend on the step: no error of V biases it, and the better V, the less it varies. With 0 it is `gain`.
    A state without a value passes on what follows it; forks are averaged.
    """

    decay: float = Field(default=1.0, ge=0.0, le=1.0)

    def assign(self, tree: ScoredTree) -> Credited:
        shape, values = tree.shape, tree.values
        returns, credit = np.full((2, *tree.rewards.shape), np.nan)
        for node in reversed(shape.trained):
            following = [child for child in shape.children[node] if shape.nodes[child].trained]
            returns[..., node] = values[..., node]
            if following:
                ahead = returns[..., following].mean(-1)
                own = values[..., node] if shape.completions[node] is not None else ahead
                returns[..., node] = (1.0 - self.decay) * own + self.decay * ahead
            credit[..., node] = returns[..., node] - before(tree, node)
        return Credited(credit)

    def complaint(self, shape: Shape) -> str | None:
        return needs_values(f"credit '{self.type}'", shape)
