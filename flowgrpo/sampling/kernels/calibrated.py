"""An SDE with a noise level of its own for every step (DenseGRPO, arXiv 2601.20218)."""

from pydantic import PositiveFloat

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.kernels._sde import sde_coefficients
from flowgrpo.sampling.levels import Step


class Calibrated(GaussianKernel):
    """c = sigma' - s^2 dt / (2 sigma), tau = s sqrt(dt) with s = `levels`[step], or `level` where there are no levels.

    The section `calibration` finds the levels before training.
    """

    level: PositiveFloat = 0.7
    levels: tuple[PositiveFloat, ...] = ()

    def coefficients(self, step: Step) -> tuple[float, float]:
        return sde_coefficients(step, lambda _: self.levels[step.index] if self.levels else self.level)

    def complaint(self, steps: int) -> str | None:
        if not self.levels or len(self.levels) == steps:
            return None
        return f"kernel.levels: {len(self.levels)} levels for policy.steps = {steps}"
