"""The best of a group against the worst, where the ids of the two count differently."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held
from flowgrpo.objective.surrogate.preference import diffusion_dpo

if TYPE_CHECKING:
    from torch import Tensor


class PreferenceOfIds(Surrogate):
    """-(2 / b) log s(b (sum w l of the best of the group - sum w' l of the worst)), with l the log-ratio of an id to the policy
    before training, b = `sharpness`, and the weights w and w' of an id. Sums are over the ids of a sample."""

    sharpness: PositiveFloat = 0.1
    needs_reference: ClassVar[bool] = True
    compares_group: ClassVar[bool] = True
    weighs_ids: ClassVar[bool] = True

    @abstractmethod
    def weights(self, batch: LossInputs) -> "tuple[Tensor | float, Tensor]":
        """(w, w'), each [C, D] or one number."""

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        (best, worst), l_CD = self.weights(batch), batch.above_reference_CD()
        d_C1 = batch.best_to_worst_C1(batch.sum_D(best * l_CD), batch.sum_D(worst * l_CD))
        return diffusion_dpo(d_C1, self.sharpness).expand_as(log_ratio_CD), nothing_held(log_ratio_CD)
