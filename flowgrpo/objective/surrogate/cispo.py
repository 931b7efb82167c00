"""A clipped ratio as a weight that has no gradient (CISPO, arXiv 2506.13585)."""

import torch
from torch import Tensor

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate


class Cispo(Surrogate):
    """-A sg[min(r, highest)] log r: no decision loses its gradient, however far it has moved. The paper clips above only."""

    def loss(self, log_ratio_CD: Tensor, batch: LossInputs, clip: Bounds) -> tuple[Tensor, Tensor]:
        _, highest = clip.of(batch)
        capped_CD = torch.clamp(log_ratio_CD.detach(), max=highest)
        return -batch.advantage_C1 * capped_CD.exp() * log_ratio_CD, capped_CD < log_ratio_CD.detach()
