"""Dense credit: how much a transition changed what its state is worth (DenseGRPO, arXiv 2601.20218)."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_values
from flowgrpo.objective.credit._peers import Peers, peers, ratio
from flowgrpo.sampling.shape import Shape


def _share_or_fitted(value: Any) -> Any:
    if value == "fitted" or (isinstance(value, int | float) and 0.0 <= value <= 1.0):
        return value
    raise ValueError(f"{value!r} is neither a number from 0 to 1 nor 'fitted'")


class Gain(Credit):
    """V(x') - b V(x), V the reward of a state's deterministic completion and b = `baseline`.

    With b = 1 (the paper's) the gains of a trajectory telescope to V(end) - V(start). V(x) does not depend on the transition,
    so b changes the variance only, and the best b is Cov(V', V) / Var(V): subtracting V(x) whole pays where the two
    correlate by more than 1/2, and doubles the variance where strong noise makes x' forget x. b = 0 credits the new value.
    Where only some states are completed, every transition between two of them gets the gain from the one to the other.

    `baseline: fitted` finds b at every step: V'_i - (a_i + b_i V_i), with a_i + b_i V the least-squares line of V' on V through
    the group's other transitions of that step. Where all are each other's peers that is e_i / (1 - h_ii), with e_i the residual
    of one line through all, h_ii = 1 / n + (V_i - mean V)^2 / sum_j (V_j - mean V)^2. The transition's own draw has no part in
    its baseline, so there is no bias, not even of order 1 / n; and it is centred already: use `advantage.mean: none`.
    The others are all that leave that step in the group's tree, of whatever start or branch: nothing of theirs descends from
    this transition, and what they have in common with it lies before it. Siblings whose noise has a common part
    (`split_scale`) are no peers of each other. b_i is 0 where the others' V are one (a shared state), or their V', and where
    they are fewer than three; a transition without peers gets V' - V.
    """

    baseline: Annotated[float | Literal["fitted"], BeforeValidator(_share_or_fitted)] = 1.0

    def assign(self, tree: ScoredTree) -> Credited:
        if self.baseline == "fitted":
            return Credited(fitted(tree))
        old, new = before_and_after(tree)
        return Credited(new - self.baseline * old)

    def complaint(self, shape: Shape) -> str | None:
        return needs_values(f"credit '{self.type}'", shape)


def before_and_after(tree: ScoredTree) -> tuple[np.ndarray, np.ndarray]:
    """([..., N], [..., N]): what the states before and after each trained transition are worth."""
    old, new = np.full((2, *tree.rewards.shape), np.nan)
    for node in tree.shape.trained:
        old[..., node], new[..., node] = before(tree, node), _after(tree, node)
    return old, new


def fitted(tree: ScoredTree) -> np.ndarray:
    """[..., N]: V' less what the peers' regression on V expects."""
    old, new = before_and_after(tree)
    credit = np.full(tree.rewards.shape, np.nan)
    for step in peers(tree.shape):
        x, y = old[..., step.nodes], new[..., step.nodes]
        expected = step.mean(y) + _slope(step, x, y, tree.rounding) * (x - step.mean(x))
        credit[..., step.nodes] = y - np.where(step.count, expected, x)
    return credit


def _slope(step: Peers, x: np.ndarray, y: np.ndarray, rounding: float) -> np.ndarray:
    """[..., n]: of the line through each one's peers, 0 where either of theirs is one value but for rounding."""
    dx, dy = step.deviations(x), step.deviations(y)
    varied = (np.ptp(dx, axis=-1) > rounding) & (np.ptp(dy, axis=-1) > rounding) & (step.count > 2)
    return ratio((dx * dy).sum(-1), np.square(dx).sum(-1), varied, 0.0)


def before(tree: ScoredTree, node: int) -> np.ndarray:
    """The value of the nearest ancestor that has one."""
    return tree.values[..., next(i for i in tree.shape.path(node)[1:] if tree.shape.completions[i] is not None)]


def _after(tree: ScoredTree, node: int) -> np.ndarray:
    """The node's own value or else that of its trained descendants' first states with one, averaged over forks."""
    if tree.shape.completions[node] is not None:
        return tree.values[..., node]
    following = [c for c in tree.shape.children[node] if not tree.shape.nodes[c].completing]
    return np.mean([_after(tree, c) for c in following], axis=0)
