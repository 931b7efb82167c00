"""The positions with the clearest winner first (Dream's `topk_margin`, arXiv 2508.15487)."""

from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, Ordered


class Margin(Ordered):
    """Score: the gap between the two highest tempered probabilities."""

    type: str = "margin"

    def confidence(self, draft: Draft) -> Tensor:
        first, second = draft.tempered.softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return first - second
