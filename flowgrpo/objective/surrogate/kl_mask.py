"""A trust region by the exact KL instead of the ratio (Flow-DPPO)."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor


class KlMask(Surrogate):
    """-A r, without a gradient where KL(new || old) > `limit` nats per dimension and the update would move further away (A > 0
    with r > 1, or A < 0 with r < 1)."""

    limit: PositiveFloat = 1e-5
    needs_old_prediction: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        assert batch.kl_old_CD is not None
        masked_CD = (batch.kl_old_CD.detach() > self.limit) & (batch.advantage_C1 * log_ratio_CD.detach() > 0)
        surrogate_CD = -batch.advantage_C1 * log_ratio_CD.exp()
        return surrogate_CD.where(~masked_CD, surrogate_CD.detach()), masked_CD
