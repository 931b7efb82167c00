"""An SDE with a noise level of its own for every step (DenseGRPO, arXiv 2601.20218)."""

from math import sqrt
from typing import Literal

from pydantic import PositiveFloat

from flowgrpo.errors import UserError
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.levels import Step


class Calibrated(Kernel):
    """c = sigma' - s^2 dt / (2 sigma), tau = s sqrt(dt) with s = `levels`[step], or `level` where there are no levels.

    The section `calibration` finds the levels before training.
    """

    type: Literal["calibrated"] = "calibrated"
    level: PositiveFloat = 0.7
    levels: tuple[PositiveFloat, ...] = ()

    def coefficients(self, step: Step) -> tuple[float, float]:
        if not step.is_flow:
            raise UserError("kernel calibrated needs a flow-matching model; use ddim for a diffusion model")
        s = self.levels[step.index] if self.levels else self.level
        return step.sigma_next - s * s * step.dt / (2.0 * step.sigma), s * sqrt(step.dt)
