"""The SDE of Flow-GRPO (arXiv 2505.05470, eq. 8-9)."""

from math import sqrt

from pydantic import PositiveFloat

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.kernels._sde import sde_coefficients
from flowgrpo.sampling.levels import Step


class FlowSde(GaussianKernel):
    """c = sigma' - s^2 dt / (2 sigma), tau = s sqrt(dt) with s = a sqrt(sigma / (1 - sigma)).

    At sigma = 1 the denominator 1 - sigma uses the schedule's second level, as the published code does.
    """

    noise_level: PositiveFloat = 0.7

    def coefficients(self, step: Step) -> tuple[float, float]:
        return sde_coefficients(step, self._diffusion)

    def _diffusion(self, step: Step) -> float:
        denominator = 1.0 - (step.sigma_second if step.sigma == 1.0 else step.sigma)
        return self.noise_level * sqrt(step.sigma / denominator)
