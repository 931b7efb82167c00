"""The ratio of every decision by itself (PPO, arXiv 1707.06347)."""

from torch import Tensor

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.ratio import Ratio


class Plain(Ratio):
    """log p_new - log p_old."""

    def log_ratio(self, batch: LossInputs) -> Tensor:
        return batch.log_ratio_CD
