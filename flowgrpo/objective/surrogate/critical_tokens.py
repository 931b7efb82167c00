"""The best of a group against the worst, of which the ids count that a teacher would not have chosen."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held
from flowgrpo.objective.surrogate.preference import diffusion_dpo

if TYPE_CHECKING:
    from torch import Tensor


class CriticalTokens(Surrogate):
    """cDPO (arXiv 2411.19943, in its code): with l the log-ratio of an id to the policy before training, b = `sharpness`, and c
    how likely the id is under softmax(2 log p_teacher - log p_ref),

    -(2 / b) log s(b (sum l of the best of the group - sum (1 - c) l of the worst)).

    Sums are over the ids of a sample. In the paper one model is trained on right answers and one on wrong ones; here the teacher
    stands for the first, the policy before training for the second.
    """

    sharpness: PositiveFloat = 0.1
    needs_reference: ClassVar[bool] = True
    reads_teacher: ClassVar[Literal["log_prob", "contrast"] | None] = "contrast"
    compares_group: ClassVar[bool] = True
    weighs_ids: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        assert batch.contrast_CD is not None
        b, l_CD = self.sharpness, batch.above_reference_CD()
        d_C1 = batch.best_to_worst_C1(batch.sum_D(l_CD), batch.sum_D((1.0 - batch.contrast_CD) * l_CD))
        return diffusion_dpo(d_C1, b).expand_as(log_ratio_CD), nothing_held(log_ratio_CD)
