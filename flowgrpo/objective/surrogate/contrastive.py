"""What the model has come to prefer is drawn towards what the rewards prefer (CRD, arXiv 2603.14128)."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held
from flowgrpo.objective.surrogate.nft import adaptive, shares

if TYPE_CHECKING:
    from torch import Tensor


class Contrastive(Surrogate):
    """(`limit` / b) (b p - r)^2, b = `beta`. p = E(v_o) - E(v) is how much better a noised sample is predicted than by the old
    policy, r in [0, 1] its share of good; both less their mean over the group. E and r are those of `nft`.
    """

    beta: PositiveFloat = 1.0
    limit: PositiveFloat = 5.0
    needs_samples: ClassVar[bool] = True
    compares_group: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        assert batch.noised is not None
        before_C1, now_C1 = (adaptive(batch.noised.error(v)) for v in (batch.noised.old, batch.noised.prediction))
        preferred_C1, r_C1 = before_C1 - now_C1, shares(batch.advantage_C1, self.limit)
        gap_C1 = self.beta * (preferred_C1 - batch.mean_group(preferred_C1)) - (r_C1 - batch.mean_group(r_C1))
        return self.limit / self.beta * gap_C1**2, nothing_held(log_ratio_CD)
