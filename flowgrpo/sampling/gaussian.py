"""The Gaussian law of a batch of transitions: sample it, score it, compare it.

Shapes: B states, C transitions; `x`, `prediction` and `x_next` are [C, ...]; scalars of a transition are [C].
Log-probabilities and KL are means over the dimensions of a state (all public implementations do so), in nats per dimension,
and are computed in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Self

import torch
from torch import Tensor

from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.keys import Key, standard_normal
from flowgrpo.sampling.levels import Schedule


@dataclass(frozen=True)
class GaussianLaw:
    """x' ~ N(a x + g v, tau^2), v the network's output. `scale` multiplies the log-density; `dt` is sigma - sigma'."""

    a: Tensor
    g: Tensor
    tau: Tensor
    dt: Tensor
    scale: Tensor

    @classmethod
    def of(cls, kernels: Sequence[Kernel], schedule: Schedule, step: int, device: torch.device) -> Self:
        at = schedule.step(step)
        p0, q0, p1, q1 = schedule.ends(step)
        rows = []
        for kernel in kernels:
            c, tau = kernel.coefficients(at)
            a, g = at.alpha_next * p0 + c * p1, at.alpha_next * q0 + c * q1
            rows.append((a, g, tau, at.dt, kernel.log_prob_scale(tau)))
        return cls(*torch.tensor(rows, dtype=torch.float64).float().to(device).unbind(1))

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.a[rows], self.g[rows], self.tau[rows], self.dt[rows], self.scale[rows])

    def mean(self, x: Tensor, prediction: Tensor) -> Tensor:
        return x.float() * _like(self.a, x) + prediction.float() * _like(self.g, x)

    def sample(self, x: Tensor, prediction: Tensor, keys: Sequence[Key]) -> Tensor:
        """x' with the noise that the keys name; float32, which is also how states are stored."""
        mean = self.mean(x, prediction)
        for i in torch.nonzero(self.tau).flatten().tolist():
            mean[i] += self.tau[i] * standard_normal(keys[i], x.shape[1:]).to(x.device)
        return mean

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        squared = _mean((x_next.detach() - self.mean(x, prediction)) ** 2)
        return self.scale * (-squared / (2.0 * self.tau**2) - torch.log(self.tau) - 0.5 * log(2.0 * pi))

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor) -> Tensor:
        """KL(p || q) of the laws under two predictions: mean((mu_p - mu_q)^2) / (2 tau^2)."""
        return self.g**2 * _mean((prediction.float() - other.float()) ** 2) / (2.0 * self.tau**2)


def _like(scalars: Tensor, x: Tensor) -> Tensor:
    return scalars.view(-1, *[1] * (x.ndim - 1))


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)
