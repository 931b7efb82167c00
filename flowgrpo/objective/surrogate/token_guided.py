"""The best of a group against the worst, where a teacher says which ids may go how far from the policy before training."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held
from flowgrpo.objective.surrogate.preference import diffusion_dpo

if TYPE_CHECKING:
    from torch import Tensor


class TokenGuided(Surrogate):
    """TGDPO (arXiv 2506.14574, in its code): with l the log-ratio of an id to the policy before training, b = `sharpness`, and
    g = b (log p_teacher - log p_ref) what the teacher finds it worth,

    -(2 / b) log s(b (sum (1 + a g) l of the best of the group - sum (1 - a g) l of the worst)), a = `strength`.

    Sums are over the ids of a sample. The teacher is a policy that a preference has trained already.
    """

    sharpness: PositiveFloat = 0.1
    strength: NonNegativeFloat = 0.5
    needs_reference: ClassVar[bool] = True
    reads_teacher: ClassVar[Literal["log_prob", "contrast"] | None] = "log_prob"
    compares_group: ClassVar[bool] = True
    weighs_ids: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        assert batch.log_prob_teacher_CD is not None and batch.log_prob_reference_CD is not None
        b, l_CD = self.sharpness, batch.above_reference_CD()
        worth_CD = self.strength * b * (batch.log_prob_teacher_CD - batch.log_prob_reference_CD)
        as_best_C1, as_worst_C1 = batch.sum_D((1.0 + worth_CD) * l_CD), batch.sum_D((1.0 - worth_CD) * l_CD)
        loss_C1 = diffusion_dpo(batch.best_to_worst_C1(as_best_C1, as_worst_C1), b)
        return loss_C1.expand_as(log_ratio_CD), nothing_held(log_ratio_CD)
