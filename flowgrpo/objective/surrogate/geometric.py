"""The geometric mean of the decisions' ratios, each clipped before (GMPO, arXiv 2507.20673)."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate


class Geometric(Surrogate):
    """-A exp(mean of l'), l' = min(l, `farthest`) for A > 0 and max(l, -`farthest`) else, l a decision's log-ratio.

    A mean of logarithms is less moved by one decision far out than a mean of ratios, so the range may be wide. `farthest` is in
    the policy's unit of log-ratio.
    """

    farthest: PositiveFloat = 0.4
    joins_decisions: ClassVar[bool] = True

    def loss(self, log_ratio_CD: Tensor, batch: LossInputs, clip: Bounds) -> tuple[Tensor, Tensor]:
        side_C1 = torch.where(batch.advantage_C1 > 0, 1.0, -1.0)
        held_CD = side_C1 * log_ratio_CD > self.farthest * batch.unit
        kept_CD = side_C1 * (side_C1 * log_ratio_CD).clamp(max=self.farthest * batch.unit)
        loss_C1 = -batch.advantage_C1 * torch.exp(batch.mean_D(kept_CD))
        return loss_C1.expand_as(log_ratio_CD), held_CD.detach()
