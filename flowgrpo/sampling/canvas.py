"""States of token models: a canvas with masks, and what the last step drew. float64, so that ids and confidences are exact.

A state is [ROWS, P + L]: P prompt positions (left-padded), then L positions to fill. Shapes: C transitions, N = P + L.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS, DRAWN, CONFIDENCE = range(3)
"""Rows of a state: the ids; the ids that the last step drew (`NOTHING` where it drew none); the confidence of each."""
ROWS = 3
NOTHING = -1


@dataclass(frozen=True)
class Vocabulary:
    """Ids with a meaning. `eos` ends a text; it is None for models without one (images)."""

    size: int
    mask: int
    pad: int
    eos: int | None = None
    forbidden: tuple[int, ...] = ()
    """Ids that must never be emitted, besides the mask."""


def canvas(tokens: Tensor) -> Tensor:
    """States [C, ROWS, N] that hold these ids [C, N] and have drawn nothing."""
    states = torch.zeros(len(tokens), ROWS, tokens.shape[1], dtype=torch.float64, device=tokens.device)
    states[:, TOKENS], states[:, DRAWN] = tokens.double(), NOTHING
    return states


def answer_length(tokens: Tensor, eos: int | None) -> Tensor:
    """[C]: how many of the L ids [C, L] count, up to and with the first end of text."""
    if eos is None:
        return torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    ended = tokens == eos
    first = ended.long().argmax(1) + 1
    return torch.where(ended.any(1), first, tokens.shape[1])


def in_answer(tokens: Tensor, eos: int | None) -> Tensor:
    """[C, L] booleans: the ids up to and with the first end of text."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return positions < answer_length(tokens, eos)[:, None]
