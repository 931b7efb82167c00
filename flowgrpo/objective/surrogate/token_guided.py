"""The best of a group against the worst, where a teacher says which ids may go how far from the policy before training."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.surrogate._of_ids import PreferenceOfIds

if TYPE_CHECKING:
    from torch import Tensor


class TokenGuided(PreferenceOfIds):
    """TGDPO (arXiv 2506.14574, in its code): with l the log-ratio of an id to the policy before training, b = `sharpness`, and
    g = b (log p_teacher - log p_ref) what the teacher finds it worth,

    -(2 / b) log s(b (sum (1 + a g) l of the best of the group - sum (1 - a g) l of the worst)), a = `strength`.

    Sums are over the ids of a sample. The teacher is a policy that a preference has trained already.
    """

    strength: NonNegativeFloat = 0.5
    reads_teacher: ClassVar[Literal["log_prob", "contrast"] | None] = "log_prob"

    def weights(self, batch: LossInputs) -> "tuple[Tensor | float, Tensor]":
        assert batch.log_prob_teacher_CD is not None and batch.log_prob_reference_CD is not None
        worth_CD = self.strength * self.sharpness * (batch.log_prob_teacher_CD - batch.log_prob_reference_CD)
        return 1.0 + worth_CD, 1.0 - worth_CD
