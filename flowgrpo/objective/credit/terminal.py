"""Terminal credit: what came out in the end (Flow-GRPO, DanceGRPO; on a tree BranchGRPO's fused reward)."""

import numpy as np

from flowgrpo.objective.credit import Credit, Credited, ScoredTree


class Terminal(Credit):
    """The mean reward of the outcomes below a transition: on a trajectory its final reward, at the root the group's mean.

    `path_weight` b > 0 weights outcome l below node n by exp(b log p(l | n)), normalised (arXiv 2509.06040, path-probability
    fusion); log p(l | n) is the sum over the trained transitions between them, in the policy's unit.
    """

    path_weight: float = 0.0

    def assign(self, tree: ScoredTree) -> Credited:
        credit = np.full(tree.rewards.shape, np.nan)
        for node, below in enumerate(tree.shape.outcomes_below):
            if below:
                credit[..., node] = self._fused(tree, node, list(below))
        return Credited(credit)

    def _fused(self, tree: ScoredTree, node: int, below: list[int]) -> np.ndarray:
        rewards = tree.rewards[..., below]
        if not self.path_weight:
            return rewards.mean(-1)
        logits = self.path_weight * np.array([_path_log_prob(tree, leaf, node) for leaf in below])
        weights = np.exp(logits - logits.max())
        return rewards @ weights / weights.sum()


def _path_log_prob(tree: ScoredTree, leaf: int, node: int) -> float:
    path = tree.shape.path(leaf)
    return float(np.nansum(tree.log_probs[path[: path.index(node)]]))
