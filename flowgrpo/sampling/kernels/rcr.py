"""Running confidence remasking (MDPO, arXiv 2508.13148): what was set may be revoked."""

import torch
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel, highest


class Rcr(UnmaskingKernel):
    """Sets every masked position, then masks again those with the least confidence of all that were set so far, old ones
    included.

    As many stay set as under the schedule. An id keeps the confidence that it was set with; those of earlier blocks may go too,
    and are back at the end of the block that is worked on. A text that has ended stays as it is. The action is the draw at all
    masked positions, since their confidences decide what survives. (The published code reads a confidence of exactly 0 as
    irrevocable; here it is the first to go.)
    """

    def score(self, draft: Draft) -> Tensor:
        return torch.where(draft.masked, draft.probability(draft.logits), draft.running)

    def keeps(self, draft: Draft, quota: Tensor) -> tuple[Tensor, Tensor]:
        return highest(self.score(draft), draft.filled | draft.masked, draft.filled.sum(1) + quota), draft.masked
