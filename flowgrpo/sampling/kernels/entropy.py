"""The positions with the least entropy first (Dream's `entropy`, arXiv 2508.15487)."""

import torch
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, Ordered


class Entropy(Ordered):
    """Score: minus the entropy of the tempered distribution."""

    type: str = "entropy"

    def confidence(self, draft: Draft) -> Tensor:
        log_p = draft.tempered.log_softmax(-1)
        return (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
