"""The law of a batch of unmasking steps: sample them, score them, compare them.

Shapes: C transitions, P prompt and L other positions, V ids; states `x` are [C, ROWS, P + L] (`sampling.canvas`), predictions
are logits [C, L, V]. A transition makes one decision per position: log-probs are [C, L], in nats, 0 where nothing was drawn.

One step of a canvas with L = 5, M a mask, that sets 2 of 3 masked positions:

    TOKENS of x           7   M   M   3   M
    drawn                 5   2   9   4   8     an id at every position, from softmax(logits / temperature)
    score                 .  .9  .2   .  .6     of the kernel; what is not masked is not asked
    chosen                .   x   .   .   x     the 2 highest: the quota of this step
    TOKENS of x'          7   2   M   3   8     the others stay masked, and their ids are thrown away
    DRAWN of x'          -1   2  -1  -1   8     NOTHING is -1
    log_prob [1, L]       0  lp   0   0  lp     of the two ids that were drawn and set
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import cos, log, pi
from typing import Self

import torch
from torch import Tensor

from flowgrpo.core.keys import Noise
from flowgrpo.sampling.canvas import CONFIDENCE, DRAWN, NOTHING, TOKENS, Vocabulary, in_answer
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import Draft, Settings, UnmaskingKernel

TINY = 2.0**-53
ROUNDING = 1e-9
"""What a share may fall short of a whole number of positions."""
LAST_TIME = 1e-3
"""Where Dream's grid of times ends."""


@dataclass(frozen=True)
class UnmaskingLaw:
    """`moves` [C] out of `steps`; `length` is L. `settings` take the place of what the kernels say."""

    moves: tuple[Move, ...]
    steps: int
    length: int
    vocabulary: Vocabulary
    device: torch.device
    settings: Settings | None = None

    @property
    def tau(self) -> Tensor:
        return torch.ones(len(self.moves), device=self.device)

    dt = g = tau

    def select(self, rows: Tensor) -> Self:
        moves = tuple(self.moves[i] for i in rows.tolist())
        return replace(self, moves=moves, settings=self.settings and self.settings.select(rows))

    def history(self, x: Tensor, prediction: Tensor) -> Tensor:
        raise AssertionError("unmasking kernels remember nothing but what the state holds")

    def sample(self, x: Tensor, prediction: Tensor, noises: Sequence[Noise], histories: Sequence[Tensor | None]) -> Tensor:
        x_next = x.clone()
        x_next[:, DRAWN] = NOTHING
        for move, rows in self._by_move():
            alike = self.select(torch.tensor(rows))
            drawn = alike._draw(_kernel(move), prediction[rows], [noises[i] for i in rows])
            for cut in self._cuts(move):
                x_next[rows] = alike._step(cut, x_next[rows], drawn)
        return x_next

    def choices(self, x_next: Tensor) -> Tensor:
        return x_next[:, DRAWN, -self.length :].long()

    def log_probs(self, prediction: Tensor) -> Tensor:
        return self._log_softmax(prediction)

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        drawn = self.choices(x_next)
        log_p = self._log_softmax(prediction).gather(-1, drawn.clamp(min=0)[..., None]).squeeze(-1)
        return torch.where(drawn == NOTHING, 0.0, log_p)

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        """Of the whole categorical at every position where an id was drawn."""
        divergence = categorical_kl(self._log_softmax(prediction), self._log_softmax(other))
        return torch.where(x_next[:, DRAWN, -self.length :] == NOTHING, 0.0, divergence)

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        """Ids behind the end of the outcome's text decide nothing."""
        relevant = in_answer(outcome[:, TOKENS, -self.length :], self.vocabulary.eos)
        return (relevant & (x_next[:, DRAWN, -self.length :] != NOTHING)).float()

    def entropy(self, prediction: Tensor) -> Tensor:
        return categorical_entropy(self._log_softmax(prediction))

    def confidence(self, x_next: Tensor) -> Tensor:
        """Where nothing was drawn it is that of the id which stands there; it decides nothing."""
        return x_next[:, CONFIDENCE, -self.length :].float()

    def error(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        raise AssertionError("ids have no error")

    def _by_move(self) -> list[tuple[Move, list[int]]]:
        rows: dict[Move, list[int]] = {}
        for i, move in enumerate(self.moves):
            rows.setdefault(move, []).append(i)
        return list(rows.items())

    def _log_softmax(self, logits: Tensor) -> Tensor:
        return (logits.float() / self._temperatures().float()[:, None, None]).log_softmax(-1)

    def _temperatures(self) -> Tensor:
        if self.settings:
            return self.settings.temperature
        return torch.tensor([_kernel(move).temperature for move in self.moves], dtype=torch.float64, device=self.device)

    def _settings(self, move: Move) -> Settings:
        """Of a law whose moves are all alike, this one being a part of them."""
        if self.settings:
            return self.settings
        kernel, ones = _kernel(move), torch.ones(len(self.moves), dtype=torch.float64, device=self.device)
        ratio = mask_ratio(kernel, move, self.steps, self.length)
        order = kernel.order_temperature_at(move.source / max(1, self.steps - 1))
        return Settings(None if ratio is None else ratio * ones, self._temperatures(), order * ones)

    def _cuts(self, move: Move) -> list[Move]:
        """The move, cut where a block ends: a jump fills the blocks that it leaves behind and its share of the one it ends in."""
        ends = range(0, self.steps, self.steps // _kernel(move).blocks(self.length))
        levels = [move.source, *(end for end in ends if move.source < end < move.target), move.target]
        return [replace(move, source=a, target=b) for a, b in pairwise(levels)]

    def _step(self, move: Move, x: Tensor, drawn: "Drawn") -> Tensor:
        """`x` [C, ...] of a law whose moves are all alike, this one being a part of them."""
        length, settings = self.length, self._settings(move)
        draft = self._draft(move, x, drawn, settings)
        kernel, x_next = _kernel(move), x.clone()
        filled, acted = kernel.checked(draft, quota(kernel, move, draft.masked.sum(1), settings, self.steps, length))
        ids = torch.where(draft.masked, draft.drawn.double(), x[:, TOKENS, -length:])
        x_next[:, TOKENS, -length:] = torch.where(filled, ids, float(self.vocabulary.mask))
        x_next[:, DRAWN, -length:] = torch.where(acted, draft.drawn.double(), x[:, DRAWN, -length:])
        confidence = torch.where(draft.masked, draft.probability(draft.logits), draft.running)
        x_next[:, CONFIDENCE, -length:] = torch.where(filled | acted, confidence, 0.0)
        return self._ended(x_next)

    def _ended(self, x: Tensor) -> Tensor:
        """Where an end of text is set and nothing left of it is masked, everything right of it is the end of text too."""
        eos, tokens = self.vocabulary.eos, x[:, TOKENS, -self.length :]
        if eos is not None:
            masked = (tokens == self.vocabulary.mask).long().cumsum(1) > 0
            over = ((tokens == eos) & ~masked).long().cumsum(1) > 0
            tokens[over] = float(eos)
        return x

    def _draw(self, kernel: UnmaskingKernel, prediction: Tensor, noises: Sequence[Noise]) -> "Drawn":
        """Ids by inverting the cumulative distribution at a uniform draw, so a draw costs two numbers a position for any V."""
        logits = prediction.double()
        normal = torch.stack([noise.draw(torch.Size((2, self.length)), torch.float64) for noise in noises])
        uniform, order = torch.special.ndtr(normal).clamp(TINY, 1.0 - TINY).to(logits.device).unbind(1)
        if not kernel.stochastic:
            return logits, logits, logits.argmax(-1), order
        tempered = logits / self._temperatures()[:, None, None]
        below = tempered.softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(below, (uniform[..., None] * below[..., -1:]).contiguous()).squeeze(-1)
        return logits, tempered, drawn, order

    def _draft(self, move: Move, x: Tensor, drawn: "Drawn", settings: Settings) -> Draft:
        masked = x[:, TOKENS, -self.length :] == self.vocabulary.mask
        open_ = masked & self._reached(move, masked.device)
        taken, left = steps_of(_kernel(move), move, self.steps, self.length)
        order_temperature = settings.order_temperature[:, None]
        return Draft(*drawn, open_, ~masked, x[:, CONFIDENCE, -self.length :], taken / left, order_temperature)

    def _reached(self, move: Move, device: torch.device) -> Tensor:
        """[L] booleans: the block that the step works on, and those before it."""
        kernel = _kernel(move)
        blocks = torch.arange(self.length, device=device) * kernel.blocks(self.length) // self.length
        return blocks <= move.source // (self.steps // kernel.blocks(self.length))


def steps_of(kernel: UnmaskingKernel, move: Move, steps: int, length: int) -> tuple[int, int]:
    """(steps that this move makes, steps that were left before it), within its block."""
    per_block = steps // kernel.blocks(length)
    return move.target - move.source, per_block - move.source % per_block


def mask_ratio(kernel: UnmaskingKernel, move: Move, steps: int, length: int) -> float | None:
    """The share of its block that stays masked after a move; None where the schedule says how many to set instead."""
    if kernel.schedule != "cosine":
        return None
    per_block = steps // kernel.blocks(length)
    taken, left = steps_of(kernel, move, steps, length)
    return cos(pi / 2.0 * (per_block - left + taken) / per_block)


def quota(kernel: UnmaskingKernel, move: Move, count: Tensor, settings: Settings, steps: int, length: int) -> Tensor:
    """How many [C] of `count` [C] masked positions a move sets."""
    taken, left = steps_of(kernel, move, steps, length)
    if taken == left:
        return count
    size, per_block = length // kernel.blocks(length), steps // kernel.blocks(length)
    if settings.mask_ratio is None and kernel.schedule == "dream":
        return _by_time(count, per_block - left, taken, per_block)
    if settings.mask_ratio is None and kernel.schedule == "fixed":
        extra = [per_block - left + i < size % per_block for i in range(taken)]
        return count.clamp(max=taken * (size // per_block) + sum(extra))
    if settings.mask_ratio is None:
        return taken * (count // left) + (count % left).clamp(max=taken)
    stay = (size * settings.mask_ratio + ROUNDING).floor().long()
    return (count - torch.minimum(count - 1, stay).clamp(min=1)).clamp(min=0)


def _by_time(count: Tensor, source: int, taken: int, steps: int) -> Tensor:
    """Of `count` [C] masked positions those that `taken` steps set, each the share of them by which time falls."""
    masked = count
    for step in range(source, source + taken):
        now, then = (1.0 - (1.0 - LAST_TIME) * i / steps for i in (step, step + 1))
        masked = masked - (masked * (1.0 - then / now) + ROUNDING).floor().long()
    return count - masked


Drawn = tuple[Tensor, Tensor, Tensor, Tensor]
"""(logits, tempered logits, ids drawn, a uniform draw per position), as in `Draft`."""


def categorical_entropy(log_p: Tensor) -> Tensor:
    """-sum p log p over the last dimension, over log V: 1 where all V ids are alike likely."""
    return -(log_p.exp() * torch.where(log_p.isneginf(), 0.0, log_p)).sum(-1) / log(log_p.shape[-1])


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension; ids that neither can emit count nothing."""
    difference = torch.where(log_p.isneginf(), 0.0, log_p - log_q)
    return (log_p.exp() * difference).sum(-1)


def _kernel(move: Move) -> UnmaskingKernel:
    assert isinstance(move.kernel, UnmaskingKernel)
    return move.kernel
