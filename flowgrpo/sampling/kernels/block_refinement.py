"""The commits of diffusers' BlockRefinementScheduler (LLaDA2, arXiv 2512.15745), without its editing."""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel, highest


class BlockRefinement(UnmaskingKernel):
    """Sets all ids of a probability above `threshold`, or the quota of the most probable ones where these are fewer.

    Probabilities are tempered. The quota of a step is `fixed`, whatever earlier steps have set beyond theirs. A threshold above 1
    leaves the quota alone. (Editing, the revision of ids that are set, is not an unmasking step: it has no place in a log-prob of
    masked positions. The scheduler is the same with `editing_threshold=None`.)
    """

    schedule: Literal["even", "cosine", "fixed"] = "fixed"
    threshold: PositiveFloat = 0.95

    def score(self, draft: Draft) -> Tensor:
        return draft.probability(draft.tempered)

    def chosen(self, draft: Draft, quota: Tensor) -> Tensor:
        score = self.score(draft)
        sure = draft.masked & (score > self.threshold)
        enough = sure.sum(1, keepdim=True) >= quota[:, None]
        return torch.where(enough, sure, highest(score, draft.masked, quota))
