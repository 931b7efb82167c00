"""Deterministic Euler step."""

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.levels import Step


class Ode(GaussianKernel):
    """c = sigma', tau = 0: the probability-flow ODE, for diffusion the same as DDIM with eta = 0."""

    def coefficients(self, step: Step) -> tuple[float, float]:
        return step.sigma_next, 0.0

    @property
    def stochastic(self) -> bool:
        return False
