"""On-policy distillation: where the policy's own samples go, it learns to step as a teacher would (GKD, arXiv 2306.13649)."""

from typing import TYPE_CHECKING, ClassVar

from flowgrpo.objective.auxiliary import Auxiliary
from flowgrpo.objective.batch import KLUnit, LossInputs

if TYPE_CHECKING:
    from torch import Tensor


class Distillation(Auxiliary):
    """KL(policy || teacher) of the step that leaves a state which the policy itself came to, in closed form: of two Gaussians,
    per dimension, in a `unit` of `objective.kl`; of two categoricals, for every id that was drawn, in nats. The paper's other
    divergences, and samples that are not the policy's own, are not here.
    """

    unit: KLUnit = "nats"
    needs_teacher: ClassVar[bool] = True

    @property
    def kl_unit(self) -> KLUnit | None:
        return self.unit

    def loss(self, batch: LossInputs) -> "Tensor":
        assert batch.kl_teacher_CD is not None
        return batch.in_unit(batch.kl_teacher_CD, self.unit)
