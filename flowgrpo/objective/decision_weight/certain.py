"""Samples of which the model was unsure are left out (GTPO's filter, arXiv 2508.03772)."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from flowgrpo.objective.decision_weight import Chosen, DecisionWeight


class Certain(DecisionWeight):
    """0 for the ids of a sample whose mean entropy at the rollout is above `limit` nats, 1 for all others.

    What several samples share stays, and so does a group of which all samples are above. (The paper filters only if the model's
    entropy is below ln 2 when training begins.)
    """

    limit: PositiveFloat = 0.7
    needs_old_prediction: ClassVar[bool] = True

    def weigh(self, chosen: Chosen) -> Tensor:
        assert chosen.log_p is not None
        entropy = -(chosen.log_p.exp() * chosen.log_p.masked_fill(chosen.log_p.isneginf(), 0.0)).sum(-1)
        samples, row = chosen.sample.unique(return_inverse=True)
        mean = torch.zeros_like(samples, dtype=entropy.dtype).index_add_(0, row, entropy) / row.bincount()
        sure = (mean <= self.limit) | (samples < 0)
        return sure[row].float() if sure[samples >= 0].any() else torch.ones_like(chosen.advantage)
