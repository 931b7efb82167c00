"""Positions from left to right; with one a step an autoregressive model (JustGRPO)."""

import torch
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel


class LeftToRight(UnmaskingKernel):
    """Score: minus the position."""

    type: str = "left_to_right"

    def score(self, draft: Draft) -> Tensor:
        return -torch.arange(draft.drawn.shape[1], device=draft.drawn.device).expand(draft.drawn.shape).double()
