"""Kernels over canvases of tokens: which of the masked positions are set in a step.

Shapes: C transitions, L positions to fill, V ids.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.sampling.kernels import Kernel


@dataclass(frozen=True)
class Draft:
    """What a step knows before it decides. All but the scalars are [C, L] or [C, L, V], float64.

    `logits` are the network's, `drawn` the ids drawn at all positions from softmax(logits / temperature), `uniform` one uniform
    draw per position, `masked` the positions that may be set, `filled` those that are, `running` the confidence that these were
    set with. `share` is the part of what is masked that an even schedule would set (1: nothing may stay masked),
    `order_temperature` [C, 1] that of the order, where it has one.
    """

    logits: Tensor
    tempered: Tensor
    drawn: Tensor
    uniform: Tensor
    masked: Tensor
    filled: Tensor
    running: Tensor
    share: float
    order_temperature: Tensor

    @property
    def gumbel(self) -> Tensor:
        """[C, L]: noise that makes an order by score / T + noise a draw without replacement from softmax(score / T)."""
        return -(-self.uniform.log()).log()

    @property
    def last(self) -> bool:
        return self.share == 1.0

    def log_probability(self, logits: Tensor) -> Tensor:
        """[C, L]: of the drawn ids under these logits."""
        return logits.log_softmax(-1).gather(-1, self.drawn[..., None]).squeeze(-1)

    def probability(self, logits: Tensor) -> Tensor:
        return self.log_probability(logits).exp()


@dataclass(frozen=True)
class Settings:
    """What a step is set to, [C] each, float64: the share of the block that is to stay masked (None: as an even schedule says),
    and the temperatures of ids and order."""

    mask_ratio: Tensor | None
    temperature: Tensor
    order_temperature: Tensor

    def select(self, rows: Tensor) -> "Settings":
        ratio = None if self.mask_ratio is None else self.mask_ratio[rows]
        return Settings(ratio, self.temperature[rows], self.order_temperature[rows])


class UnmaskingKernel(Kernel):
    """Draw an id at every masked position, then keep the `quota` positions with the highest `score`, and leave the others masked.

    Ids are drawn from softmax(z / temperature) in float64; at `temperature` 0 they are the argmax, and there is no density.
    Ties go to the left. `block_length` b fills blocks of b positions from left to right, each in an equal share of the steps.
    `schedule` `even`: m masked positions in k steps left are ceil(m / k) a step (LLaDA, arXiv 2502.09992); `cosine`: after the
    share s of a block's steps floor(b cos(pi s / 2)) of it stay masked, at least one until the end (MaskGIT, arXiv 2202.04200);
    `fixed`: b positions over all steps as `even` would, whatever is still masked; `dream`: floor(m (1 - s / t)) a step, from
    time t to s of an even grid from 1 to 1e-3, and the rest in the last (Dream, arXiv 2508.15487).
    A text ends where an end of text is set and nothing before it is masked; then what is behind it is the end of text too.
    Log-probs are those of the drawn ids given which positions were set, as in all public code; the choice of the positions has no
    term of its own. With an order that looks at the drawn ids that is an approximation.
    """

    sets_quota: ClassVar[bool] = True
    """Whether it sets as many positions as the schedule says."""
    temperature: NonNegativeFloat = 1.0
    block_length: PositiveInt | None = None
    schedule: Literal["even", "cosine", "fixed", "dream"] = "even"

    @property
    def stochastic(self) -> bool:
        return self.temperature > 0.0

    @property
    def ends_stochastic(self) -> bool:
        return True

    def deterministic(self) -> Self:
        """The most likely ids. (Where the order is random it stays so.)"""
        return self.model_copy(update={"temperature": 0.0})

    def blocks(self, length: int) -> int:
        return length // self.block_length if self.block_length else 1

    def needs(self, steps: int, length: int) -> str | None:
        """Why the kernel can't fill this many positions in this many steps, or None."""
        block = self.block_length or length
        if length % block:
            return f"kernel.block_length = {block} must divide the policy's length = {length}"
        if steps % (length // block):
            return f"{steps} steps must be a multiple of the {length // block} blocks of {block} positions"
        return None

    def order_temperature_at(self, progress: float) -> float:
        """Temperature of a random order; `progress` is 0 at a rollout's first step and 1 at its last."""
        return 0.0

    @abstractmethod
    def score(self, draft: Draft) -> Tensor:
        """[C, L], higher is set first; entries of positions that are not masked are ignored."""

    def chosen(self, draft: Draft, quota: Tensor) -> Tensor:
        """[C, L] booleans: the masked positions to set, `quota` [C] of them."""
        return highest(self.score(draft), draft.masked, quota)

    def keeps(self, draft: Draft, quota: Tensor) -> tuple[Tensor, Tensor]:
        """([C, L] positions that hold an id afterwards, [C, L] positions whose draw is part of the action)."""
        chosen = self.chosen(draft, quota)
        return draft.filled | chosen, chosen

    def checked(self, draft: Draft, quota: Tensor) -> tuple[Tensor, Tensor]:
        """What the kernel `keeps`. Errors: UserError where it raises or returns something else than booleans."""
        with user_code(f"kernel '{self.type}'"):
            masks = self.keeps(draft, quota)
        for mask in masks:
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != draft.masked.shape:
                form = list(draft.masked.shape)
                raise UserError(f"kernel '{self.type}' must say with booleans of shape {form} which positions are kept")
        return masks


class Ordered(UnmaskingKernel):
    """The order is drawn from softmax(score / `order_temperature`), without replacement (Dream's `alg_temp`); at 0 it is that of
    the scores."""

    order_temperature: NonNegativeFloat = 0.0

    def order_temperature_at(self, progress: float) -> float:
        return self.order_temperature

    def score(self, draft: Draft) -> Tensor:
        return self.confidence(draft) + draft.order_temperature * draft.gumbel

    @abstractmethod
    def confidence(self, draft: Draft) -> Tensor:
        """[C, L], higher is set first."""


def highest(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """[C, L] booleans: the `count` [C] highest scores among these positions; ties go to the left.

    Errors: NotFinite where a score among them is NaN.
    """
    if torch.isnan(score.masked_fill(~among, 0.0)).any():
        raise NotFinite("the score of a masked position is NaN, so positions have no order; check the kernel's score")
    finite = score.clamp(min=torch.finfo(score.dtype).min)
    order = finite.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return among & (rank < count[:, None])
