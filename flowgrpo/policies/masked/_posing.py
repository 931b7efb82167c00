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
from flowgrpo.sampling.canvas import TOKENS, Vocabulary, canvas, in_answer
from flowgrpo.sampling.laws.unmasking import categorical_entropy, categorical_kl
from flowgrpo.sampling.likelihood import Level, Likelihood

TINY = 1e-12


@dataclass(frozen=True)
class Posing:
    """`given` says how many ids of a prompt's answer are given: these are seen in all states, and not scored."""

    likelihood: Likelihood
    vocabulary: Vocabulary
    length: int
    predict: Callable[[Tensor, Sequence[Prompt], int], Tensor]
    given: Callable[[Prompt], int]

    @property
    def together(self) -> int:
        return self.likelihood.states

    def __call__(
        self, outcomes: Tensor, prompts: Sequence[Prompt], keys: Sequence[Key], groups: Sequence[Key]
    ) -> Iterator[Posed]:
        tokens = outcomes[:, TOKENS]
        free = np.arange(self.length) >= np.array([self.given(prompt) for prompt in prompts])[:, None]
        answers = in_answer(tokens[:, -self.length :], self.vocabulary.eos).cpu().numpy() & free
        asked = (tokens[:, : -self.length] != self.vocabulary.pad).cpu().numpy()
        drawn_by = groups if self.likelihood.alike else keys
        drawn = [self.likelihood.checked(a, p, numpy_generator(key)) for a, p, key in zip(answers, asked, drawn_by, strict=True)]
        masked = np.stack([np.concatenate([m.prompt, m.masked & row], 1) for m, row in zip(drawn, free, strict=True)])
        hidden = torch.from_numpy(masked).to(tokens.device).flatten(0, 1)
        states = canvas(tokens.repeat_interleave(self.together, 0).masked_fill(hidden, float(self.vocabulary.mask)))
        weights = torch.from_numpy(np.stack([m.weights for m in drawn])).float().to(tokens.device)
        parent = torch.arange(len(states), device=tokens.device).view(len(outcomes), self.together)
        scored = torch.from_numpy(answers).to(tokens.device)
        yield Posed(states, parent, PosedLaw(weights, self.likelihood.level, scored))


@dataclass(frozen=True)
class PosedLaw:
    """log p(y) = sum over k, i of weights[k, i] log p(y_i | state k); `weights` [C, K, L]. The ids `scored` [C, L] count.

    Here `x` is [C, K, ROWS, N], `prediction` [C, K, L, V] and `x_next` [C, ROWS, N]. D is L, or 1 where the outcome is one
    decision.
    """

    weights: Tensor
    level: Level
    scored: Tensor

    @property
    def tau(self) -> Tensor:
        return torch.ones(len(self.weights), device=self.weights.device)

    dt = g = tau

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.weights[rows], self.level, self.scored[rows])

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
        return self._joined(prediction.log_softmax(-1).gather(-1, index).squeeze(-1))

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        return self._joined(categorical_kl(prediction.log_softmax(-1), other.log_softmax(-1)))

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
            return self.scored.float()
        return torch.ones(len(self.weights), 1, device=self.weights.device)

    def _tokens(self, x_next: Tensor) -> Tensor:
        return x_next[:, TOKENS, -self.scored.shape[1] :].long()

    def _joined(self, values: Tensor) -> Tensor:
        """[C, K, L] -> [C, D]"""
        by_position = torch.where(self.weights == 0.0, 0.0, self.weights * values).sum(1)
        if self.level == "decision":
            return by_position
        total = by_position.sum(1, keepdim=True)
        return total / self.scored.sum(1, keepdim=True) if self.level == "mean" else total
