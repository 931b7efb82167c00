"""Wider bounds for what was improbable (DCPO's dynamic-adaptive clipping, arXiv 2509.02333)."""

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds


class Probability(Bounds):
    """r in [(1 + sqrt(max(1 - 4 low / q, 0))) / 2, min((1 + sqrt(1 + 4 high / q)) / 2, most)], q the probability at the rollout.

    From |r - 1| r q <= low or high: what counts is how far the probability moves. An id with q < 4 `low` may lose half of its.
    """

    low: PositiveFloat = 0.16
    high: PositiveFloat = 0.2
    most: float = Field(default=10.0, gt=1.0)
    needs_ids: ClassVar[bool] = True

    def of(self, batch: LossInputs) -> tuple[Tensor, Tensor]:
        q_CD = batch.log_prob_old_CD.clamp(max=0.0).exp()
        lowest = 0.5 + 0.5 * torch.sqrt((1.0 - 4.0 * self.low / q_CD).clamp(min=0.0))
        highest = (0.5 + 0.5 * torch.sqrt(1.0 + 4.0 * self.high / q_CD)).clamp(max=self.most)
        return lowest.log(), highest.log()
