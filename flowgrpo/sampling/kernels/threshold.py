"""All ids above a confidence at once (Fast-dLLM, arXiv 2505.22618)."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel, highest


class Threshold(UnmaskingKernel):
    """Sets every masked position whose drawn id has an untempered probability above `threshold`, and at least one.

    What is left at the last step is set then, so a rollout has at most S steps that change something.
    """

    sets_quota: ClassVar[bool] = False
    threshold: float = Field(default=0.9, gt=0.0, lt=1.0)

    def score(self, draft: Draft) -> Tensor:
        return draft.probability(draft.logits)

    def chosen(self, draft: Draft, quota: Tensor) -> Tensor:
        score = self.score(draft)
        best = highest(score, draft.masked, torch.ones_like(quota))
        return draft.masked if draft.last else best | (draft.masked & (score > self.threshold))
