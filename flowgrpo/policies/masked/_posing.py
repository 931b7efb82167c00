"""Outcomes scored as wholes, by a likelihood that masks them anew.

Shapes: C outcomes, K states each, P prompt and L other positions, N = P + L, V ids.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.keys import Key, numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.protocol import Posed
from flowgrpo.sampling.canvas import TOKENS, Vocabulary, answer_length, canvas, in_answer
from flowgrpo.sampling.laws.unmasking import categorical_entropy, categorical_kl
from flowgrpo.sampling.likelihood import Level, Likelihood

TINY = 1e-12


@dataclass(frozen=True)
class Posing:
    likelihood: Likelihood
    vocabulary: Vocabulary
    length: int
    predict: Callable[[Tensor, Sequence[Prompt], int], Tensor]

    @property
    def together(self) -> int:
        return self.likelihood.states

    def __call__(
        self, outcomes: Tensor, prompts: Sequence[Prompt], keys: Sequence[Key], groups: Sequence[Key]
    ) -> Iterator[Posed]:
        tokens = outcomes[:, TOKENS]
        answers = in_answer(tokens[:, -self.length :], self.vocabulary.eos).cpu().numpy()
        asked = (tokens[:, : -self.length] != self.vocabulary.pad).cpu().numpy()
        drawn_by = groups if self.likelihood.alike else keys
        drawn = [self.likelihood.checked(a, p, numpy_generator(key)) for a, p, key in zip(answers, asked, drawn_by, strict=True)]
        masked = np.stack([np.concatenate([m.prompt, m.masked], 1) for m in drawn])
        hidden = torch.from_numpy(masked).to(tokens.device).flatten(0, 1)
        states = canvas(tokens.repeat_interleave(self.together, 0).masked_fill(hidden, float(self.vocabulary.mask)))
        weights = torch.from_numpy(np.stack([m.weights for m in drawn])).float().to(tokens.device)
        parent = torch.arange(len(states), device=tokens.device).view(len(outcomes), self.together)
        yield Posed(states, parent, PosedLaw(weights, self.likelihood.level, self.length, self.vocabulary.eos))


@dataclass(frozen=True)
class PosedLaw:
    """log p(y) = sum over k, i of weights[k, i] log p(y_i | state k); `weights` [C, K, L].

    Here `x` is [C, K, ROWS, N], `prediction` [C, K, L, V] and `x_next` [C, ROWS, N]. D is L, or 1 where the outcome is one
    decision.
    """

    weights: Tensor
    level: Level
    length: int
    eos: int | None

    @property
    def tau(self) -> Tensor:
        return torch.ones(len(self.weights), device=self.weights.device)

    dt = g = tau

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.weights[rows], self.level, self.length, self.eos)

    def choices(self, x_next: Tensor) -> Tensor:
        return self._tokens(x_next)

    def log_probs(self, prediction: Tensor) -> Tensor:
        """The mean over the K states, by their weights."""
        weights = self.weights[..., None]
        total = weights.sum(1).clamp(min=TINY)
        return torch.where(weights == 0.0, 0.0, weights * prediction.log_softmax(-1)).sum(1) / total

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        tokens = self._tokens(x_next)
        index = tokens[:, None, :, None].expand(*prediction.shape[:-1], 1)
        return self._joined(prediction.log_softmax(-1).gather(-1, index).squeeze(-1), tokens)

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        divergence = categorical_kl(prediction.log_softmax(-1), other.log_softmax(-1))
        return self._joined(divergence, self._tokens(x_next))

    def entropy(self, prediction: Tensor) -> Tensor:
        """The mean over the K states, by their weights; of the outcome, the mean over its positions."""
        total = self.weights.sum(1).clamp(min=TINY)
        by_position = (self.weights * categorical_entropy(prediction.log_softmax(-1))).sum(1) / total
        return by_position if self.level == "decision" else by_position.mean(1, keepdim=True)

    def confidence(self, x_next: Tensor) -> Tensor:
        raise AssertionError("an outcome that is scored as a whole has no confidence")

    def error(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        raise AssertionError("ids have no error")

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        if self.level == "decision":
            return in_answer(self._tokens(x_next), self.eos).float()
        return torch.ones(len(self.weights), 1, device=self.weights.device)

    def _tokens(self, x_next: Tensor) -> Tensor:
        return x_next[:, TOKENS, -self.length :].long()

    def _joined(self, values: Tensor, tokens: Tensor) -> Tensor:
        """[C, K, L] -> [C, D]"""
        by_position = torch.where(self.weights == 0.0, 0.0, self.weights * values).sum(1)
        if self.level == "decision":
            return by_position
        total = by_position.sum(1, keepdim=True)
        return total / answer_length(tokens, self.eos)[:, None] if self.level == "mean" else total
