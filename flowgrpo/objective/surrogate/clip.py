"""The clipped ratio (PPO, arXiv 1707.06347, eq. 7)."""

from typing import TYPE_CHECKING

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bound, Bounds
from flowgrpo.objective.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor


class Clip(Surrogate):
    """max(-A r, -A clip(r))."""

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        return clipped(log_ratio_CD, batch.advantage_C1, *clip.of(batch))


def clipped(log_ratio_CD: "Tensor", advantage_C1: "Tensor", low: Bound, high: Bound) -> "tuple[Tensor, Tensor]":
    """(max(-A r, -A clip(r)), whether the clip holds the gradient back), with `low` and `high` as log-ratios.

    r - 1 is computed by expm1: clip ranges of 1e-6 are common here, and float32 resolves 1 + x only to 1e-7.
    """
    free_CD = -advantage_C1 * log_ratio_CD.expm1()
    bound_CD = -advantage_C1 * log_ratio_CD.clamp(low, high).expm1()
    return free_CD.maximum(bound_CD) - advantage_C1, (bound_CD > free_CD).detach()
