"""Discounted value (VGPO, arXiv 2512.12387)."""

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from flowgrpo.core.rounding import rounding
from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.sampling.shape import Shape


class Value(Credit):
    """Q_t = R_t + gamma Q_{t+1}: the discounted reward to go, R_t the reward of the completion of the state after step t.

    VGPO completes with one step (`completion: {steps: 1}`), the clean prediction. With w_t = Q_t / mean_t Q_t along the
    trajectory the advantage is w_t (z(Q_t) + k Q_t): relative plus absolute, the absolute part in the first
    `absolute_steps` steps only. It keeps a signal where a group has no variance, so use it with
    `advantage.zero_variance: keep`. Values that are negative or 0 on average have no weights: w_t = 1.
    The paper's equation 13 is reconstructed from its description: alpha = k std(Q) inside (1 + alpha) Q - mean Q over std.
    """

    gamma: float = Field(default=0.99, ge=0.0, le=1.0)
    absolute: NonNegativeFloat = 0.1
    absolute_steps: NonNegativeInt = 5

    def assign(self, tree: ScoredTree) -> Credited:
        """A transition that several trajectories share gets their mean."""
        count, value, weight = np.zeros((3, len(tree.shape.nodes)))
        for path in map(list, tree.shape.trajectories):
            returns = discounted(tree.values[path], self.gamma)
            count[path] += 1.0
            value[path] += returns
            weight[path] += relative(returns)
        count[count == 0.0] = np.nan
        value, weight = value / count, weight / count
        early = np.array([node.step <= self.absolute_steps for node in tree.shape.nodes])
        return Credited(value, scale=weight, offset=np.where(early, weight * self.absolute * value, 0.0))

    def complaint(self, shape: Shape) -> str | None:
        if all(shape.completions[i] is not None for i in shape.trained):
            return None
        return f"credit '{self.type}' needs the value of every state; set rollout.plan.completion, e.g. {{steps: 1}}"


def discounted(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """[w] rewards to go: Q_t = R_t + gamma Q_{t+1}."""
    return np.array([rewards[t:] @ gamma ** np.arange(len(rewards) - t) for t in range(len(rewards))])


def relative(returns: np.ndarray) -> np.ndarray:
    """Q over its mean, or ones where that means nothing."""
    mean = returns.mean()
    return returns / mean if mean > rounding(returns) and returns.min() >= 0.0 else np.ones(len(returns))
