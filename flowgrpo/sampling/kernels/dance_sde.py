"""The SDE of DanceGRPO (arXiv 2505.07818): constant diffusion."""

from pydantic import PositiveFloat

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.kernels._sde import sde_coefficients
from flowgrpo.sampling.levels import Step


class DanceSde(GaussianKernel):
    """c = sigma' - eta^2 dt / (2 sigma), tau = eta sqrt(dt)."""

    eta: PositiveFloat = 0.3

    def coefficients(self, step: Step) -> tuple[float, float]:
        return sde_coefficients(step, lambda _: self.eta)
