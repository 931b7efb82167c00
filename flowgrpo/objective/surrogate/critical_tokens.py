"""The best of a group against the worst, of which the ids count that a teacher would not have chosen."""

from typing import TYPE_CHECKING, ClassVar, Literal

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.surrogate._of_ids import PreferenceOfIds

if TYPE_CHECKING:
    from torch import Tensor


class CriticalTokens(PreferenceOfIds):
    """cDPO (arXiv 2411.19943, in its code): with l the log-ratio of an id to the policy before training, b = `sharpness`, and c
    how likely the id is under softmax(2 log p_teacher - log p_ref),

    -(2 / b) log s(b (sum l of the best of the group - sum (1 - c) l of the worst)).

    Sums are over the ids of a sample. In the paper one model is trained on right answers and one on wrong ones; here the teacher
    stands for the first, the policy before training for the second.
    """

    reads_teacher: ClassVar[Literal["log_prob", "contrast"] | None] = "contrast"

    def weights(self, batch: LossInputs) -> "tuple[Tensor | float, Tensor]":
        assert batch.contrast_CD is not None
        return 1.0, 1.0 - batch.contrast_CD
