"""The law of a batch of unmasking steps: sample them, score them, compare them.

Shapes: C transitions, P prompt and L other positions, V ids; states `x` are [C, ROWS, P + L] (`sampling.canvas`), predictions
are logits [C, L, V]. A transition makes one decision per position: log-probs are [C, L], in nats, 0 where nothing was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import cos, floor, pi
from typing import Self

import torch
from torch import Tensor

from flowgrpo.sampling.canvas import CONFIDENCE, DRAWN, NOTHING, TOKENS, Vocabulary, in_answer
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import Draft, UnmaskingKernel
from flowgrpo.sampling.keys import Noise

TINY = 2.0**-53
ROUNDING = 1e-9
"""What a cosine may fall short of a whole number of positions."""


@dataclass(frozen=True)
class UnmaskingLaw:
    """`moves` [C] out of `steps`; `length` is L."""

    moves: tuple[Move, ...]
    steps: int
    length: int
    vocabulary: Vocabulary
    device: torch.device

    @property
    def tau(self) -> Tensor:
        return torch.ones(len(self.moves), device=self.device)

    dt = g = tau

    def select(self, rows: Tensor) -> Self:
        moves = tuple(self.moves[i] for i in rows.tolist())
        return type(self)(moves, self.steps, self.length, self.vocabulary, self.device)

    def memory(self, x: Tensor, prediction: Tensor) -> Tensor:
        raise AssertionError("unmasking kernels remember nothing but what the state holds")

    def sample(self, x: Tensor, prediction: Tensor, noises: Sequence[Noise], memories: Sequence[Tensor | None]) -> Tensor:
        out = x.clone()
        out[:, DRAWN] = NOTHING
        for move, rows in self._groups():
            drawn = self._draw(_kernel(move), prediction[rows], [noises[i] for i in rows])
            for part in self._parts(move):
                out[rows] = self._step(part, out[rows], drawn)
        return out

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        drawn = x_next[:, DRAWN, -self.length :].long()
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

    def _groups(self) -> list[tuple[Move, list[int]]]:
        found: dict[Move, list[int]] = {}
        for i, move in enumerate(self.moves):
            found.setdefault(move, []).append(i)
        return list(found.items())

    def _log_softmax(self, logits: Tensor) -> Tensor:
        temperatures = torch.tensor([_kernel(move).temperature for move in self.moves], device=logits.device)
        return (logits.float() / temperatures[:, None, None]).log_softmax(-1)

    def _parts(self, move: Move) -> list[Move]:
        """The move, cut where a block ends: a jump fills the blocks that it leaves behind and its share of the one it ends in."""
        ends = range(0, self.steps, self._steps_per_block(_kernel(move)))
        cuts = [move.source, *(end for end in ends if move.source < end < move.target), move.target]
        return [replace(move, source=a, target=b) for a, b in pairwise(cuts)]

    def _step(self, move: Move, x: Tensor, drawn: "Drawn") -> Tensor:
        length, draft = self.length, self._draft(move, x, drawn)
        kept, acted = _kernel(move).keeps(draft, self._quota(move, draft))
        out = x.clone()
        set_ = torch.where(draft.masked, draft.drawn.double(), x[:, TOKENS, -length:])
        out[:, TOKENS, -length:] = torch.where(kept, set_, float(self.vocabulary.mask))
        out[:, DRAWN, -length:] = torch.where(acted, draft.drawn.double(), x[:, DRAWN, -length:])
        confidence = torch.where(draft.masked, draft.probability(draft.logits), draft.running)
        out[:, CONFIDENCE, -length:] = torch.where(kept, confidence, 0.0)
        return self._ended(out)

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
        tempered = logits / kernel.temperature
        below = tempered.softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(below, (uniform[..., None] * below[..., -1:]).contiguous()).squeeze(-1)
        return logits, tempered, drawn, order

    def _draft(self, move: Move, x: Tensor, drawn: "Drawn") -> Draft:
        masked = x[:, TOKENS, -self.length :] == self.vocabulary.mask
        open_ = masked & self._reached(move, masked.device)
        made, left = self._schedule(move)
        return Draft(*drawn, open_, ~masked, x[:, CONFIDENCE, -self.length :], made / left, move.source / max(1, self.steps - 1))

    def _schedule(self, move: Move) -> tuple[int, int]:
        """(steps that this move makes, steps that were left before it), within its block."""
        per_block = self._steps_per_block(_kernel(move))
        return move.target - move.source, per_block - move.source % per_block

    def _blocks(self, kernel: UnmaskingKernel) -> int:
        return self.length // kernel.block_length if kernel.block_length else 1

    def _steps_per_block(self, kernel: UnmaskingKernel) -> int:
        return self.steps // self._blocks(kernel)

    def _reached(self, move: Move, device: torch.device) -> Tensor:
        """[L] booleans: the block that the step works on, and those before it."""
        kernel = _kernel(move)
        blocks = torch.arange(self.length, device=device) * self._blocks(kernel) // self.length
        return blocks <= move.source // self._steps_per_block(kernel)

    def _quota(self, move: Move, draft: Draft) -> Tensor:
        """[C] positions to set."""
        kernel, count = _kernel(move), draft.masked.sum(1)
        if draft.last:
            return count
        made, left = self._schedule(move)
        if kernel.schedule == "even":
            return made * (count // left) + (count % left).clamp(max=made)
        per_block, block = self._steps_per_block(kernel), self.length // self._blocks(kernel)
        stay = floor(block * cos(pi / 2.0 * (per_block - left + made) / per_block) + ROUNDING)
        return (count - (count - 1).clamp(max=stay).clamp(min=1)).clamp(min=0)


Drawn = tuple[Tensor, Tensor, Tensor, Tensor]
"""(logits, tempered logits, ids drawn, a uniform draw per position), as in `Draft`."""


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension; ids that neither can emit count nothing."""
    difference = torch.where(log_p.isneginf(), 0.0, log_p - log_q)
    return (log_p.exp() * difference).sum(-1)


def _kernel(move: Move) -> UnmaskingKernel:
    assert isinstance(move.kernel, UnmaskingKernel)
    return move.kernel
