"""As many positions as their entropies allow (EB-Sampler, arXiv 2505.24857)."""

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel


class EntropyBound(UnmaskingKernel):
    """Sets the k masked positions of least entropy, k the largest with (sum of their entropies) - (largest of them) <= `bound`.

    The left side bounds the joint dependence of the k ids; k is at least 1. What is left at the last step is set then.
    """

    sets_quota: ClassVar[bool] = False
    bound: NonNegativeFloat = 0.1

    def score(self, draft: Draft) -> Tensor:
        log_p = draft.tempered.log_softmax(-1)
        return (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)

    def chosen(self, draft: Draft, quota: Tensor) -> Tensor:
        if draft.last:
            return draft.masked
        entropy = -self.score(draft).masked_fill(~draft.masked, -torch.inf)
        order = entropy.argsort(dim=1, stable=True)
        sorted_ = entropy.gather(1, order)
        within = sorted_.cumsum(1) - sorted_ <= self.bound
        within[:, 0] = True
        return torch.zeros_like(draft.masked).scatter_(1, order, within) & draft.masked
