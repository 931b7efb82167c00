"""The mix of terminal credit and gains that varies least."""

import numpy as np

from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_values
from flowgrpo.objective.credit._peers import Peers, peers, ratio
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.sampling.shape import Shape


class Blend(Credit):
    """w_i T_i + (1 - w_i) D_i, T_i the terminal credit and D_i the gain V(x') - V(x), both less the mean of their peers.

    Each estimates the effect of one transition on the reward, of another continuation. T_i: the rest goes as it was sampled,
    with all its noise, so it is right for the stochastic sampler, and noisy. D_i: the rest is deterministic, so it is right for a
    sampler with this one stochastic step, and in error about the other to the degree that noise to come changes what a state is
    worth. Where it does not, both mean the same, and so does their mix.

    At every step w_i = Cov(D, D - T) / Var(D - T), between 0 and 1, is the weight of least variance among the others (1/2 where
    D - T is constant there). Peers are those of `gain` with `baseline: fitted`; a transition without any gets V(x') - V(x).
    Neither weight nor mean knows the transition's own draw, so the mix of the two expectations has no further bias. It is
    centred: use `advantage.mean: none`.
    """

    def assign(self, tree: ScoredTree) -> Credited:
        terminal, gain = Terminal().assign(tree).value, Gain().assign(tree).value
        credit = np.full(tree.rewards.shape, np.nan)
        for step in peers(tree.shape):
            t, d = terminal[..., step.nodes], gain[..., step.nodes]
            weight = _weight(step, t, d, 3.0 * tree.rounding)
            credit[..., step.nodes] = weight * (t - step.mean(t)) + (1.0 - weight) * (d - step.mean(d))
        return Credited(credit)

    def complaint(self, shape: Shape) -> str | None:
        return needs_values(f"credit '{self.type}'", shape)


def _weight(step: Peers, t: np.ndarray, d: np.ndarray, rounding: float) -> np.ndarray:
    """[..., n]: of `t` in the mix with `d` that varies least among each one's peers, 0 where there are none."""
    apart = step.deviations(d - t)
    best = ratio(np.einsum("...ij,...j->...i", apart, d), np.square(apart).sum(-1), np.ptp(apart, axis=-1) > rounding, 0.5)
    return np.where(step.count, np.clip(best, 0.0, 1.0), 0.0)
