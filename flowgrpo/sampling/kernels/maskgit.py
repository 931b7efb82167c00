"""The order of MaskGIT (arXiv 2202.04200) as diffusers' AmusedScheduler has it."""

from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel


class Maskgit(UnmaskingKernel):
    """Score: log p(drawn id) + T Gumbel noise, T falls from `order_temperature` to 0; the schedule is a cosine."""

    type: str = "maskgit"
    schedule: Literal["even", "cosine"] = "cosine"
    order_temperature: NonNegativeFloat = 2.0

    def order_temperature_at(self, progress: float) -> float:
        return self.order_temperature * (1.0 - progress)

    def score(self, draft: Draft) -> Tensor:
        return draft.log_probability(draft.logits) + draft.order_temperature * draft.gumbel
