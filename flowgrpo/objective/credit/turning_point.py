"""Turning-point credit (TP-GRPO, arXiv 2602.06422)."""

import numpy as np

from flowgrpo.core.rounding import sign
from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_every_value
from flowgrpo.sampling.shape import Shape


class TurningPoint(Credit):
    """Incremental rewards d_t = V_t - V_{t-1}, and at turning points the aggregated long-term reward B_t = V_w - V_{t-1}.

    V_t is the value of the state after t stochastic steps (deterministic completion), V_0 that of the start under the same
    noise, V_w that of the last one, D = V_w - V_0 and s_t = sign(d_t) sign(D). Step t > 1 is a turning point when
    s_{t-1} < 0 < s_t (definition 4.1), step 1 when s_1 > 0. `consistent` (definition 5.1) asks besides, and at step 1
    instead, that sign(d_t) sign(V_w - V_t) > 0: what remains goes the same way.
    `balance` (appendix D): per group and sign of B_t only min(#positive, #negative) turning points stay, the largest by
    |B_t|; the others fall back to d_t. Groups with one sign only are left alone. The released code ranks by D instead.
    """

    consistent: bool = True
    balance: bool = True

    def assign(self, tree: ScoredTree) -> Credited:
        shape = tree.shape
        gain, long_term = np.full((2, len(shape.nodes)), np.nan)
        turning = np.zeros(len(shape.nodes), bool)
        for path in map(list, shape.trajectories):
            start = shape.nodes[path[0]].parent
            assert start is not None
            values = tree.values[[start, *path]]
            gain[path], long_term[path] = np.diff(values), values[-1] - values[:-1]
            turning[path] = turning_points(values, self.consistent, tree.rounding)
        if self.balance:
            turning &= balanced(long_term, turning)
        return Credited(np.where(turning, long_term, gain), turning=turning)

    def complaint(self, shape: Shape) -> str | None:
        if len({i for path in shape.trajectories for i in path}) < sum(map(len, shape.trajectories)):
            return f"credit '{self.type}' follows trajectories, and the plan forks them on the way; use credit 'gain' on trees"
        return needs_every_value(self.type, shape)


def turning_points(values: np.ndarray, consistent: bool, rounding: float = 0.0) -> np.ndarray:
    """[w] booleans for the w steps between `values` [w + 1]; a change by no more than `rounding` has no sign."""
    d = sign(np.diff(values), rounding)
    s = d * sign(values[-1] - values[0], rounding)
    ahead = d * sign(values[-1] - values[1:], rounding) > 0
    turns = np.concatenate([s[:1] > 0, (s[:-1] < 0) & (s[1:] > 0)])
    if not consistent:
        return turns
    return np.concatenate([ahead[:1], turns[1:] & ahead[1:]])


def balanced(size: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[N] booleans: equally many of the chosen of either sign, the largest; all when only one sign is there."""
    keep = np.ones(len(size), bool)
    signs = [np.flatnonzero(chosen & (sign * size > 0)) for sign in (1, -1)]
    count = min(len(rows) for rows in signs)
    if count:
        for rows in signs:
            keep[rows[np.argsort(-np.abs(size[rows]), kind="stable")[count:]]] = False
    return keep
