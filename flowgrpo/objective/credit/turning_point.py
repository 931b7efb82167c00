"""Turning-point credit (TP-GRPO, arXiv 2602.06422)."""

import numpy as np

from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.objective.turning import balanced, needs_trajectories, turning_points
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
            values = tree.along(path)
            gain[path], long_term[path] = np.diff(values), values[-1] - values[:-1]
            turning[path] = turning_points(values, self.consistent, tree.rounding)
        if self.balance:
            turning &= balanced(long_term, turning)
        return Credited(np.where(turning, long_term, gain), turning=turning)

    def complaint(self, shape: Shape) -> str | None:
        return needs_trajectories(f"credit '{self.type}'", shape, "use credit 'gain' on trees")
