"""How finished samples are scored that were noised anew.

Shapes: C samples, each at one level; `x` and `prediction` are [C, ...], `x_next` is the finished sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowgrpo.sampling.laws._rows import Rows, like, mean_of

LEAST = 1e-10
"""Keeps the slope of a root finite, as in the code of AWM."""


@dataclass(frozen=True)
class MatchingLaw(Rows):
    """From the network's output v at x, x0_hat = p x + q v; v* is the output that gives the sample itself. All are [C].

    The log-prob is -w m^`power` / `power` with m = mean((v - v*)^2), one decision a sample and level: no density, but it rises
    where the sample gets likelier.
    """

    p: Tensor
    q: Tensor
    weight: Tensor
    power: Tensor

    @property
    def tau(self) -> Tensor:
        return torch.ones_like(self.q)

    dt = g = tau

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        m = mean_of((self.error(x, prediction, x_next) / like(self.q, x)) ** 2)
        return -(self.weight * m * (m + LEAST) ** (self.power - 1.0) / self.power)[:, None]

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        """With the noise scale 1 that a level has here, the KL of two Gaussians."""
        return distance(prediction, other)

    def error(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        """[C, ...]: x0_hat less the sample."""
        return x.float() * like(self.p, x) + prediction.float() * like(self.q, x) - x_next.float()

    def entropy(self, prediction: Tensor) -> Tensor:
        raise AssertionError("a sample that is noised anew has no distribution of decisions")

    def confidence(self, x_next: Tensor) -> Tensor:
        raise AssertionError("a sample that is noised anew has no confidence")

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        return torch.ones_like(self.q)[:, None]


def distance(prediction: Tensor, other: Tensor) -> Tensor:
    """[C, 1]: mean((v - v')^2) / 2."""
    return 0.5 * mean_of((prediction.float() - other.float()) ** 2)[:, None]
