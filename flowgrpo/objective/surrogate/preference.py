"""The best of a group against the worst, or the good against the bad, with the policy before training as the measure."""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held

if TYPE_CHECKING:
    from torch import Tensor


class Preference(Surrogate):
    """With p = log p - log p_ref of a sample (the mean over its decisions), d that of the best of a group less that of the worst,
    and b = `sharpness` over the policy's unit of log-ratio:

    `dpo`: -(2 / b) log s(b d), s the logistic function (Diffusion-DPO, arXiv 2311.12908, eq. 14, on samples of its own);
    `ipo`: b (d - 1 / (2 b))^2 (IPO, arXiv 2310.12036, eq. 17);
    `kto`: (4 / b) (1 - s(b (p - z))) for samples with A > 0 and (4 / b) (1 - s(b (z - p))) for others, z the group's mean of p
    without a gradient, at least 0 (Diffusion-KTO, arXiv 2404.04465).

    Of several that are best or worst, each counts its part.
    """

    form: Literal["dpo", "ipo", "kto"] = "dpo"
    sharpness: PositiveFloat = 1.0
    needs_reference: ClassVar[bool] = True
    compares_group: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        b = self.sharpness / batch.unit
        p_C1 = batch.above_reference_C1()
        A_C1 = batch.advantage_C1
        if self.form == "kto":
            z_C1 = batch.mean_group(p_C1.detach()).clamp(min=0.0)
            loss_C1 = 4.0 / b * torch.sigmoid(-b * A_C1.sign() * (p_C1 - z_C1))
            return torch.where(A_C1 == 0, 0.0, loss_C1).expand_as(log_ratio_CD), nothing_held(log_ratio_CD)
        d_C1 = batch.best_to_worst_C1(p_C1, p_C1)
        loss_C1 = diffusion_dpo(d_C1, b) if self.form == "dpo" else b * (d_C1 - 0.5 / b) ** 2
        return loss_C1.expand_as(log_ratio_CD), nothing_held(log_ratio_CD)


def diffusion_dpo(d: "Tensor", b: float) -> "Tensor":
    """-(2 / b) log s(b d): its gradient where d is 0 is that of -d."""
    return -2.0 / b * torch.nn.functional.logsigmoid(b * d)
