"""The most confident ids first (LLaDA's low-confidence remasking, arXiv 2502.09992)."""

from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel


class LowConfidence(UnmaskingKernel):
    """Score: the untempered probability of the drawn id."""

    type: str = "low_confidence"

    def score(self, draft: Draft) -> Tensor:
        return draft.probability(draft.logits)
