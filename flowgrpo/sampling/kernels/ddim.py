"""DDIM with noise (arXiv 2010.02502, eq. 16), for flow matching and diffusion alike."""

from math import sqrt

from pydantic import Field

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.levels import Step


class Ddim(GaussianKernel):
    """tau = eta sigma' sqrt(1 - sigma'^2 alpha^2 / (sigma^2 alpha'^2)), c = sqrt(sigma'^2 - tau^2).

    eta = 1 is the posterior of the forward process (DDPM), eta = 0 the ODE.
    """

    eta: float = Field(default=1.0, gt=0.0, le=1.0)

    def coefficients(self, step: Step) -> tuple[float, float]:
        left = (step.sigma_next * step.alpha / (step.sigma * step.alpha_next)) ** 2
        tau = self.eta * step.sigma_next * sqrt(1.0 - left)
        return sqrt(step.sigma_next**2 - tau**2), tau
