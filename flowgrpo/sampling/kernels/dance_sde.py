"""The SDE of DanceGRPO (arXiv 2505.07818): constant diffusion."""

from math import sqrt
from typing import Literal

from pydantic import PositiveFloat

from flowgrpo.errors import UserError
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.levels import Step


class DanceSde(Kernel):
    """c = sigma' - eta^2 dt / (2 sigma), tau = eta sqrt(dt)."""

    type: Literal["dance_sde"] = "dance_sde"
    eta: PositiveFloat = 0.3

    def coefficients(self, step: Step) -> tuple[float, float]:
        if not step.is_flow:
            raise UserError("kernel dance_sde needs a flow-matching model; use ddim for a diffusion model")
        return step.sigma_next - self.eta**2 * step.dt / (2.0 * step.sigma), self.eta * sqrt(step.dt)
