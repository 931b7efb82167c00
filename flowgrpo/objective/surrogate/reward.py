"""The rewards themselves, by their gradient."""

from typing import TYPE_CHECKING, ClassVar

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held

if TYPE_CHECKING:
    from torch import Tensor


class Reward(Surrogate):
    """-r, r the weighted sum of the rewards (DRaFT, arXiv 2309.17400). With `enough` it is max(`enough` - r, 0): what earns so
    much already pulls no more (ReFL, arXiv 2304.05977, whose code has 2 for ImageReward).

    It reads no advantage: every sample is pulled up the slope of its own rewards, all of which must be differentiable. A KL is
    that of the first of the steps that the gradient goes through, in the unit `velocity`.
    """

    enough: float | None = None
    needs_gradient: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        r_C1 = batch.reward_C1
        assert r_C1 is not None
        if self.enough is None:
            return -r_C1, nothing_held(r_C1)
        short_C1 = self.enough - r_C1
        return short_C1.clamp(min=0.0), short_C1.detach() <= 0.0
