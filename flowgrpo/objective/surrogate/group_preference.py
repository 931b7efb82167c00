"""A group's better half against its worse half, as one preference (DGPO, arXiv 2510.08425)."""

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor


class GroupPreference(Surrogate):
    """-2 s(-S) A log p, s the logistic function and S = b mean over the group of A (log p - log p_ref), without a gradient.

    So it is 2 / b times the gradient of -log s(S), at the price of one evaluation for each sample. b is `sharpness` over the
    policy's unit of log-ratio. A sample whose ratio has left `objective.clip` in the direction of its advantage has no gradient.
    """

    sharpness: PositiveFloat = 1.0
    needs_reference: ClassVar[bool] = True
    compares_group: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        low, high = clip.of(batch)
        A_C1 = batch.advantage_C1
        gained_C1 = batch.above_reference_C1().detach()
        won_C1 = self.sharpness / batch.unit * batch.mean_group(A_C1 * gained_C1)
        held_CD = torch.where(A_C1 > 0, log_ratio_CD > high, log_ratio_CD < low).detach()
        loss_CD = -2.0 * torch.sigmoid(-won_C1) * A_C1 * log_ratio_CD
        return loss_CD.where(~held_CD, loss_CD.detach()), held_CD
