"""Noise levels of a sampling run. States mix the clean sample x0 and the noise x1: x_i = alpha_i x0 + sigma_i x1."""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

Parameterization = Literal["velocity", "data_velocity", "epsilon", "v_prediction", "sample"]


@dataclass(frozen=True, slots=True)
class Step:
    """The levels on both sides of one transition; `sigma_second` is the schedule's second noise level.

    `index` is the source's place in the schedule of S steps.
    """

    index: int
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float
    sigma_second: float
    is_flow: bool

    @property
    def dt(self) -> float:
        """How far the noise level falls; positive."""
        return self.sigma - self.sigma_next

    def as_flow(self) -> "Step":
        """The levels as those of flow matching, sigma / (alpha + sigma)."""
        if self.is_flow:
            return self
        second = self.sigma_second / (self.sigma_second + sqrt(max(0.0, 1.0 - self.sigma_second**2)))
        sigma, after = self.sigma / (self.alpha + self.sigma), self.sigma_next / (self.alpha_next + self.sigma_next)
        return Step(self.index, 1.0 - sigma, sigma, 1.0 - after, after, second, True)


@dataclass(frozen=True, slots=True)
class Schedule:
    """S + 1 levels from pure noise (index 0) to the sample (index S), as the pipeline's own scheduler made them.

    `timesteps` are what the network is told (S of them). Flow matching has alpha = 1 - sigma and predicts the
    velocity x1 - x0 (or x0 - x1, data_velocity); variance-preserving diffusion has alpha^2 + sigma^2 = 1. Where a scheduler
    keeps its states at another scale, they are `scales` times these. `noise` is the standard deviation of x1.
    """

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    parameterization: Parameterization
    scales: tuple[float, ...] | None = None
    noise: float = 1.0

    def scale(self, i: int) -> float:
        return self.scales[i] if self.scales else 1.0

    def mixture(self, i: int) -> tuple[float, float]:
        """(a, s): a state of level i is a x0 + s x1 at the scale that it is kept at. The sample, level S, counts as clean."""
        return (1.0, 0.0) if i == len(self.timesteps) else (self.alphas[i] * self.scale(i), self.sigmas[i] * self.scale(i))

    def step(self, i: int, target: int | None = None) -> Step:
        """From level i to `target`, by default the next one."""
        j = i + 1 if target is None else target
        return Step(
            i,
            self.alphas[i],
            self.sigmas[i],
            self.alphas[j],
            self.sigmas[j],
            self.sigmas[1],
            self.parameterization in ("velocity", "data_velocity"),
        )

    def ends(self, i: int) -> tuple[float, float, float, float]:
        """(p0, q0, p1, q1): from the network's output v at level i, x0_hat = p0 x + q0 v and x1_hat = p1 x + q1 v."""
        alpha, sigma, scale = self.alphas[i], self.sigmas[i], self.scale(i)
        match self.parameterization:
            case "velocity":
                return 1.0, -sigma, 1.0, 1.0 - sigma
            case "data_velocity":
                return 1.0, sigma, 1.0, sigma - 1.0
            case "epsilon":
                return 1.0 / (alpha * scale), -sigma / alpha, 0.0, 1.0
            case "v_prediction":
                return alpha / scale, -sigma, sigma / scale, alpha
            case "sample":
                return 0.0, 1.0, 1.0 / (sigma * scale), -alpha / sigma
