"""Dense credit: how much a transition changed what its state is worth (DenseGRPO, arXiv 2601.20218)."""

import numpy as np
from pydantic import Field

from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_values
from flowgrpo.sampling.shape import Shape


class Gain(Credit):
    """V(x') - b V(x), V the reward of a state's deterministic completion and b = `baseline`.

    With b = 1 (the paper's) the gains of a trajectory telescope to V(end) - V(start). V(x) does not depend on the transition,
    so b changes the variance only, and the best b is Cov(V', V) / Var(V): subtracting V(x) whole pays where the two
    correlate by more than 1/2, and doubles the variance where strong noise makes x' forget x. b = 0 credits the new value.
    Where only some states are completed, every transition between two of them gets the gain from the one to the other.
    """

    baseline: float = Field(default=1.0, ge=0.0, le=1.0)

    def assign(self, tree: ScoredTree) -> Credited:
        credit = np.full(len(tree.shape.nodes), np.nan)
        for node in tree.shape.trained:
            credit[node] = _after(tree, node) - self.baseline * _before(tree, node)
        return Credited(credit)

    def complaint(self, shape: Shape) -> str | None:
        return needs_values(self.type, shape)


def _before(tree: ScoredTree, node: int) -> float:
    """The value of the nearest ancestor that has one."""
    return float(next(tree.values[i] for i in tree.shape.path(node)[1:] if not np.isnan(tree.values[i])))


def _after(tree: ScoredTree, node: int) -> float:
    """The node's own value or else that of its trained descendants' first states with one, averaged over forks."""
    if not np.isnan(tree.values[node]):
        return float(tree.values[node])
    return float(np.mean([_after(tree, c) for c in tree.shape.children[node] if not tree.shape.nodes[c].completing]))
