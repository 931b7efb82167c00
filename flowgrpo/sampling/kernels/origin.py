"""Every masked position for itself (Dream's `origin`): the ancestral sampler of the absorbing chain (arXiv 2107.03006)."""

from typing import ClassVar

from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel


class Origin(UnmaskingKernel):
    """A masked position is set with the probability that an even schedule sets it, independently of the others."""

    sets_quota: ClassVar[bool] = False
    type: str = "origin"

    def score(self, draft: Draft) -> Tensor:
        return draft.uniform

    def chosen(self, draft: Draft, quota: Tensor) -> Tensor:
        return draft.masked if draft.last else draft.masked & (draft.uniform < draft.share)
