"""More for good answers that were improbable (XRPO, arXiv 2510.06672)."""

from typing import ClassVar

import numpy as np
from pydantic import NonNegativeFloat

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.modifier import Modifier


class Novelty(Modifier):
    """A + min(max(`rate` (1 - e), 0), `most` A) where A > 0, with e = exp(s - mean s of the group) and s a sample's mean log-prob
    of a decision at the rollout. A transition that several samples share has their mean e.
    """

    rate: NonNegativeFloat = 2.5
    most: NonNegativeFloat = 0.5
    needs_ids: ClassVar[bool] = True

    def modify(self, tree: ScoredTree, advantage: np.ndarray) -> np.ndarray:
        scores = {leaf: _mean_log_prob(tree, leaf) for leaf in tree.shape.outcomes}
        centre = np.mean([*scores.values()])
        ratios = {leaf: float(np.exp(score - centre)) for leaf, score in scores.items()}
        below = [np.mean([ratios[leaf] for leaf in leaves]) if leaves else 1.0 for leaves in tree.shape.outcomes_below]
        more = np.minimum(np.maximum(self.rate * (1.0 - np.array(below)), 0.0), self.most * advantage)
        return np.where(advantage > 0.0, advantage + more, advantage)


def _mean_log_prob(tree: ScoredTree, leaf: int) -> float:
    """Of the decisions that led to an outcome and count."""
    path = [node for node in tree.shape.path(leaf) if tree.shape.nodes[node].trained]
    return float(tree.log_probs[path].sum() / max(tree.decisions[path].sum(), 1.0))
