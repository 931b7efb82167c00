"""The ratio of every decision by itself (PPO, arXiv 1707.06347)."""

from typing import TYPE_CHECKING

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.ratio import Ratio

if TYPE_CHECKING:
    from torch import Tensor


class Plain(Ratio):
    """log p_new - log p_old."""

    def log_ratio(self, batch: LossInputs) -> "Tensor":
        return batch.log_ratio_CD
