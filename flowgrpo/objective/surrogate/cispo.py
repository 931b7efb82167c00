"""A clipped ratio as a weight that has no gradient (CISPO, arXiv 2506.13585)."""

from typing import TYPE_CHECKING

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor


class Cispo(Surrogate):
    """-A sg[min(r, highest)] log r: no decision loses its gradient, however far it has moved. The paper clips above only."""

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        _, highest = clip.of(batch)
        capped_CD = log_ratio_CD.detach().clamp(max=highest)
        return -batch.advantage_C1 * capped_CD.exp() * log_ratio_CD, capped_CD < log_ratio_CD.detach()
