"""A decision's ratio and that of its transition, each clipped in its own band (DHPO, arXiv 2601.05607, reconstructed)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import AnyBounds, Bounds
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.ratio.joint import joint
from flowgrpo.objective.surrogate import Surrogate
from flowgrpo.objective.surrogate.clip import clipped

if TYPE_CHECKING:
    from torch import Tensor


class Mixture(Surrogate):
    """w L(r) + (1 - w) L(s): L the clipped loss, r a decision's ratio within `objective.clip`, s the geometric mean of those of
    its transition within `band`. w is 1/2, or where `by` says so a decision's entropy over the largest possible: its own ratio
    counts where the model was undecided.

    The abstract says that each branch is clipped before the mix. What is mixed, and how entropy becomes w, is our reading.
    """

    band: AnyBounds = Constant(low=3e-4, high=4e-4)
    by: Literal["average", "entropy"] = "average"
    joins_decisions: ClassVar[bool] = True

    @property
    def needs_entropy(self) -> bool:
        return self.by == "entropy"

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        own_CD, own_held_CD = clipped(log_ratio_CD, batch.advantage_C1, *clip.of(batch))
        all_CD, all_held_CD = clipped(joint(log_ratio_CD, batch), batch.advantage_C1, *self.band.of(batch))
        w = self._weight(batch)
        return w * own_CD + (1.0 - w) * all_CD, own_held_CD & all_held_CD

    def _weight(self, batch: LossInputs) -> "Tensor | float":
        if self.by == "average":
            return 0.5
        assert batch.entropy_CD is not None
        return batch.entropy_CD
