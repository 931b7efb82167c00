"""Noise levels of a sampling run. States mix the clean sample x0 and the noise x1: x_i = alpha_i x0 + sigma_i x1."""

from dataclasses import dataclass
from typing import Literal

Parameterization = Literal["velocity", "epsilon", "v_prediction", "sample"]


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


@dataclass(frozen=True, slots=True)
class Schedule:
    """S + 1 levels from pure noise (index 0) to the sample (index S), as the pipeline's own scheduler made them.

    `timesteps` are what the network is told (S of them). Flow matching has alpha = 1 - sigma and predicts the
    velocity x1 - x0; variance-preserving diffusion has alpha^2 + sigma^2 = 1.
    """

    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    parameterization: Parameterization

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
            self.parameterization == "velocity",
        )

    def ends(self, i: int) -> tuple[float, float, float, float]:
        """(p0, q0, p1, q1): from the network's output v at level i, x0_hat = p0 x + q0 v and x1_hat = p1 x + q1 v."""
        alpha, sigma = self.alphas[i], self.sigmas[i]
        match self.parameterization:
            case "velocity":
                return 1.0, -sigma, 1.0, 1.0 - sigma
            case "epsilon":
                return 1.0 / alpha, -sigma / alpha, 0.0, 1.0
            case "v_prediction":
                return alpha, -sigma, sigma, alpha
            case "sample":
                return 0.0, 1.0, 1.0 / sigma, -alpha / sigma
