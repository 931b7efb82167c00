"""The model learns from its own samples as if they were data, better ones more."""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held

if TYPE_CHECKING:
    from torch import Tensor


class Weighted(Surrogate):
    """-w log p, where w has the mean 1 over a group and is never negative: `best`: only the best of a group counts (RAFT, arXiv
    2304.06767); `exponential`: w in proportion to exp(A / `temperature`) (RWR, Peters and Schaal 2007; AWR, arXiv 1910.00177).
    """

    by: Literal["best", "exponential"] = "best"
    temperature: PositiveFloat = 1.0
    compares_group: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        A_C1 = batch.advantage_C1
        worth_C1 = batch.best_C1(A_C1) if self.by == "best" else torch.exp(A_C1 / self.temperature)
        return -worth_C1 / batch.mean_group(worth_C1) * log_ratio_CD, nothing_held(log_ratio_CD)
