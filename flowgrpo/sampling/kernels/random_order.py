"""Positions in random order (LLaDA's `random` remasking): the one order rule that does not look at what was drawn."""

from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel


class RandomOrder(UnmaskingKernel):
    """Score: a uniform draw."""

    type: str = "random_order"

    def score(self, draft: Draft) -> Tensor:
        return draft.uniform
