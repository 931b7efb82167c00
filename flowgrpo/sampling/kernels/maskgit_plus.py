"""The most confident ids first, confidence taken under the temperature (Dream's `maskgit_plus`, arXiv 2508.15487)."""

from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, Ordered


class MaskgitPlus(Ordered):
    """Score: the tempered probability of the drawn id."""

    type: str = "maskgit_plus"

    def confidence(self, draft: Draft) -> Tensor:
        return draft.probability(draft.tempered)
