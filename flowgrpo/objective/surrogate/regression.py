"""The log-ratio is drawn towards the advantage (Reg-GRPO of DeepVideo-R1, arXiv 2506.07464, reconstructed)."""

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor


class Regression(Surrogate):
    """(b / 2) (A - l / b)^2 with l the log-ratio and b = `scale` units of log-ratio for each unit of advantage.

    The paper regresses log-ratios that are normalised over the group, which is 0 / 0 before the first step. Advantages are
    centred, so their sum draws no mean of log-ratios along, and here l stays as it is.
    """

    scale: PositiveFloat = 0.5

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        b = self.scale * batch.unit
        beyond_CD = log_ratio_CD * batch.advantage_C1.sign() > b * batch.advantage_C1.abs()
        return 0.5 * b * (batch.advantage_C1 - log_ratio_CD / b) ** 2, beyond_CD & (batch.advantage_C1 != 0)
