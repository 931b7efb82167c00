"""No ratio at all (REINFORCE, Williams 1992)."""

import torch
from torch import Tensor

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate


class Reinforce(Surrogate):
    """-A log p. The old policy has no part in it, so nothing holds an update back but its learning rate."""

    def loss(self, log_ratio_CD: Tensor, batch: LossInputs, clip: Bounds) -> tuple[Tensor, Tensor]:
        return -batch.advantage_C1 * log_ratio_CD, torch.zeros_like(log_ratio_CD, dtype=torch.bool)
