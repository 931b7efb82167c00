"""How finished samples are scored that were noised anew.

Shapes: C samples, each at one level; `x` and `prediction` are [C, ...], `x_next` is the finished sample.
"""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class MatchingLaw:
    """From the network's output v at x, x0_hat = p x + q v; v* is the output that gives the sample itself. All are [C].

    The log-prob is -w mean((v - v*)^2), one decision a sample and level: no density, but it rises where the sample gets likelier.
    """

    p: Tensor
    q: Tensor
    weight: Tensor

    @property
    def tau(self) -> Tensor:
        return torch.ones_like(self.q)

    dt = g = tau

    def select(self, rows: Tensor) -> Self:
        return type(self)(*(vars(self)[field.name][rows] for field in fields(self)))

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        error = self.error(x, prediction, x_next) / _like(self.q, x)
        return -(self.weight * (error**2).flatten(1).mean(1))[:, None]

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        """mean((v - v')^2) / 2: with the noise scale 1 that a level has here, the KL of two Gaussians."""
        return 0.5 * ((prediction.float() - other.float()) ** 2).flatten(1).mean(1)[:, None]

    def error(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        """[C, ...]: x0_hat less the sample."""
        return x.float() * _like(self.p, x) + prediction.float() * _like(self.q, x) - x_next.float()

    def entropy(self, prediction: Tensor) -> Tensor:
        raise AssertionError("a sample that is noised anew has no distribution of decisions")

    def confidence(self, x_next: Tensor) -> Tensor:
        raise AssertionError("a sample that is noised anew has no confidence")

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        return torch.ones_like(self.q)[:, None]


def _like(scalars: Tensor, x: Tensor) -> Tensor:
    return scalars.view(-1, *[1] * (x.ndim - 1))
