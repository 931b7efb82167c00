"""The Gaussian law of a batch of transitions: sample it, score it, compare it.

Shapes: B states, C transitions; `x`, `prediction` and `x_next` are [C, ...]; scalars of a transition are [C].
A transition is one decision, so log-probabilities and KL are [C, 1]: means over the dimensions of a state (all public
implementations do so), in nats per dimension, computed in float32.

One step from noise level sigma to sigma' < sigma. The network's output v at x says where both ends are, as far as it knows:

    sigma:   x ------------ v -----> x0_hat = p0 x + q0 v   the clean sample
             |                       x1_hat = p1 x + q1 v   the noise in it
             v
    sigma':  mean = alpha' x0_hat + c x1_hat = a x + g v    both ends, mixed again at the new level
             x'   = mean + tau eps                          and fresh noise eps ~ N(0, 1)

The kernel chooses (c, tau). Its own noise takes the place of some that was there: with independent x1_hat and eps the level stays
the schedule's where c^2 + tau^2 = sigma'^2. tau = 0 is the ODE. Training moves v, so it moves the mean by g dv, and the
log-prob of the x' that was drawn with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Self

import torch
from torch import Tensor

from flowgrpo.core.keys import Noise
from flowgrpo.sampling.kernels import GaussianKernel, Move
from flowgrpo.sampling.laws._rows import Rows, like, mean_of
from flowgrpo.sampling.levels import Schedule


@dataclass(frozen=True)
class GaussianLaw(Rows):
    """x' ~ N(a x + g v + m (x0_hat - x0_before), tau^2), v the network's output and x0_hat = p x + q v.

    `scale` multiplies the log-density; `dt` is sigma - sigma'. m is 0 but for multistep kernels, which have no density.
    """

    a: Tensor
    g: Tensor
    tau: Tensor
    dt: Tensor
    scale: Tensor
    p: Tensor
    q: Tensor
    m: Tensor

    @classmethod
    def of(cls, moves: Sequence[Move], schedule: Schedule, device: torch.device) -> Self:
        rows = [_coefficients(move, schedule) for move in moves]
        return cls(*torch.tensor(rows, dtype=torch.float64).float().to(device).unbind(1))

    def mean(self, x: Tensor, prediction: Tensor) -> Tensor:
        return x.float() * like(self.a, x) + prediction.float() * like(self.g, x)

    def history(self, x: Tensor, prediction: Tensor) -> Tensor:
        """x0_hat [C, ...], the predicted clean sample: what a multistep kernel remembers of a state."""
        return x.float() * like(self.p, x) + prediction.float() * like(self.q, x)

    def sample(self, x: Tensor, prediction: Tensor, noises: Sequence[Noise], histories: Sequence[Tensor | None]) -> Tensor:
        """x', float32, which is also how states are stored; `histories` are those of the states before."""
        mean = self.mean(x, prediction)
        for i in torch.nonzero(self.m).flatten().tolist():
            mean[i] += self.m[i] * (self.p[i] * x[i] + self.q[i] * prediction[i] - histories[i])
        for i in torch.nonzero(self.tau).flatten().tolist():
            mean[i] += self.tau[i] * noises[i].draw(x.shape[1:]).to(x.device)
        return mean

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        squared = mean_of((x_next.detach() - self.mean(x, prediction)) ** 2)
        log_prob = self.scale * (-squared / (2.0 * self.tau**2) - torch.log(self.tau) - 0.5 * log(2.0 * pi))
        return log_prob[:, None]

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        """KL(p || q) of the laws under two predictions: mean((mu_p - mu_q)^2) / (2 tau^2)."""
        return (self.g**2 * mean_of((prediction.float() - other.float()) ** 2) / (2.0 * self.tau**2))[:, None]

    def entropy(self, prediction: Tensor) -> Tensor:
        raise AssertionError("a Gaussian step is as undecided as its noise, whatever is predicted")

    def confidence(self, x_next: Tensor) -> Tensor:
        raise AssertionError("a Gaussian step has no confidence")

    def error(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        raise AssertionError("a step does not end at the finished sample")

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        return torch.ones_like(self.tau)[:, None]


def _coefficients(move: Move, schedule: Schedule) -> tuple[float, ...]:
    kernel, at = move.kernel, schedule.step(move.source, move.target)
    assert isinstance(kernel, GaussianKernel)
    p0, q0, p1, q1 = schedule.ends(move.source)
    c, tau = kernel.checked(at)
    scale = schedule.scale(move.target)
    a, g = scale * (at.alpha_next * p0 + c * p1), scale * (at.alpha_next * q0 + c * q1)
    m = 0.0 if move.before is None else scale * kernel.correction(schedule.step(move.before, move.source), at)
    return a, g, scale * schedule.noise * tau, at.dt, kernel.log_prob_scale(tau), p0, q0, m
