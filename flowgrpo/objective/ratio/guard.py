"""A ratio that every step has the same distribution of (GRPO-Guard, arXiv 2510.22319)."""

from typing import TYPE_CHECKING, ClassVar

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.ratio import Ratio

if TYPE_CHECKING:
    from torch import Tensor


class Guard(Ratio):
    """(log p_new - log p_old + KL(new || old)) tau, with the loss divided by dt."""

    needs_old_prediction: ClassVar[bool] = True
    needs_noise_scale: ClassVar[bool] = True

    def log_ratio(self, batch: LossInputs) -> "Tensor":
        assert batch.kl_old_CD is not None
        return (batch.log_ratio_CD + batch.kl_old_CD) * batch.tau_C1

    def rescaled(self, loss_CD: "Tensor", batch: LossInputs) -> "Tensor":
        return loss_CD / batch.dt_C1
