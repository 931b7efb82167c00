"""The order in which masked positions are set: one score each, the highest first."""

from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from flowgrpo.sampling.kernels._unmasking import Draft, Ordered, UnmaskingKernel


class LowConfidence(UnmaskingKernel):
    """The most confident ids first (LLaDA's low-confidence remasking, arXiv 2502.09992).

    Score: the untempered probability of the drawn id.
    """

    def score(self, draft: Draft) -> Tensor:
        return draft.probability(draft.logits)


class MaskgitPlus(Ordered):
    """The most confident ids first, confidence taken under the temperature (Dream's `maskgit_plus`, arXiv 2508.15487).

    Score: the tempered probability of the drawn id.
    """

    def confidence(self, draft: Draft) -> Tensor:
        return draft.probability(draft.tempered)


class Margin(Ordered):
    """The positions with the clearest winner first (Dream's `topk_margin`, arXiv 2508.15487).

    Score: the gap between the two highest tempered probabilities.
    """

    def confidence(self, draft: Draft) -> Tensor:
        first, second = draft.tempered.softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return first - second


class Entropy(Ordered):
    """The positions with the least entropy first (Dream's `entropy`, arXiv 2508.15487).

    Score: minus the entropy of the tempered distribution.
    """

    def confidence(self, draft: Draft) -> Tensor:
        log_p = draft.tempered.log_softmax(-1)
        return (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


class Maskgit(UnmaskingKernel):
    """The order of MaskGIT (arXiv 2202.04200) as diffusers' AmusedScheduler has it.

    Score: log p(drawn id) + T Gumbel noise, T falls from `order_temperature` to 0; the schedule is a cosine.
    """

    schedule: Literal["even", "cosine"] = "cosine"
    order_temperature: NonNegativeFloat = 2.0

    def order_temperature_at(self, progress: float) -> float:
        return self.order_temperature * (1.0 - progress)

    def score(self, draft: Draft) -> Tensor:
        return draft.log_probability(draft.logits) + draft.order_temperature * draft.gumbel


class RandomOrder(UnmaskingKernel):
    """Positions in random order (LLaDA's `random` remasking): the one order rule that does not look at what was drawn.

    Score: a uniform draw.
    """

    def score(self, draft: Draft) -> Tensor:
        return draft.uniform


class LeftToRight(UnmaskingKernel):
    """Positions from left to right; with one a step an autoregressive model (JustGRPO).

    Score: minus the position.
    """

    def score(self, draft: Draft) -> Tensor:
        return -torch.arange(draft.drawn.shape[1], device=draft.drawn.device).expand(draft.drawn.shape).double()


class Origin(UnmaskingKernel):
    """Every masked position for itself (Dream's `origin`): the ancestral sampler of the absorbing chain (arXiv 2107.03006).

    A masked position is set with the probability that an even schedule sets it, independently of the others.
    """

    sets_quota: ClassVar[bool] = False

    def score(self, draft: Draft) -> Tensor:
        return draft.uniform

    def chosen(self, draft: Draft, quota: Tensor) -> Tensor:
        return draft.masked if draft.last else draft.masked & (draft.uniform < draft.share)
