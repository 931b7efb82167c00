"""Coefficients-preserving sampling (arXiv 2509.05952)."""

from math import pi, sin, sqrt
from typing import Literal

from pydantic import Field

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.levels import Step


class Cps(GaussianKernel):
    """c = sqrt(sigma'^2 - tau^2), tau = sigma' sin(a pi / 2): the noise in the state keeps its level exactly.

    `log_prob: gaussian` is the density. `unscaled` is -mean((x' - mu)^2) as in the published code, which multiplies
    log-ratios by 2 tau^2; clip ranges of the two are not interchangeable.
    """

    noise_level: float = Field(default=0.8, gt=0.0, le=1.0)
    log_prob: Literal["gaussian", "unscaled"] = "gaussian"

    def coefficients(self, step: Step) -> tuple[float, float]:
        tau = step.sigma_next * sin(self.noise_level * pi / 2.0)
        return sqrt(step.sigma_next**2 - tau**2), tau

    def log_prob_scale(self, tau: float) -> float:
        return 1.0 if self.log_prob == "gaussian" else 2.0 * tau * tau
