"""Positions count more where the samples of a group part (TW-GRPO, arXiv 2505.24718)."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowgrpo.core.rounding import SHARE
from flowgrpo.objective.decision_weight import Chosen, DecisionWeight

FARTHEST = 11.0
"""What differences of log-probs are clipped to, as published."""


class Divergence(DecisionWeight):
    """1 + (`most` - 1) m, m in [0, 1] the divergence D of the position between the least and the most of all positions.

    D = mean over samples of sum over ids of exp(d) - d - 1, d = (mean of log p over the samples) - log p within +-11, p what the
    id at the position was chosen from. Where D is the same everywhere, all weights are 1. The published code takes a uniform p
    for samples that end before the position; here these do not count.
    """

    most: float = Field(default=1.7, gt=1.0)
    needs_old_prediction: ClassVar[bool] = True

    def weigh(self, chosen: Chosen) -> Tensor:
        assert chosen.log_p is not None
        places, row = chosen.position.unique(return_inverse=True)
        possible = ~chosen.log_p.isneginf()
        log_p = chosen.log_p.masked_fill(~possible, 0.0)
        apart = (_mean(log_p, row, len(places))[row] - log_p).clamp(-FARTHEST, FARTHEST)
        terms = torch.where(possible, apart.exp() - apart - 1.0, 0.0)
        divergence = _mean(terms.sum(-1, keepdim=True), row, len(places)).squeeze(-1)
        least, spread = divergence.min(), divergence.max() - divergence.min()
        if spread <= SHARE * divergence.max():
            return torch.ones_like(chosen.advantage)
        return (1.0 + (self.most - 1.0) * (divergence - least) / spread)[row]


def _mean(values: Tensor, row: Tensor, places: int) -> Tensor:
    """[places, ...]: the mean of the values [N, ...] of each place."""
    sums = values.new_zeros(places, *values.shape[1:]).index_add_(0, row, values)
    return sums / row.bincount(minlength=places)[:, None]
