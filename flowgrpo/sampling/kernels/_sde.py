"""One Euler-Maruyama step of the SDE that shares its marginals with the flow; kernels differ in its diffusion only."""

from math import sqrt

from flowgrpo.core.errors import UserError
from flowgrpo.sampling.levels import Step


def sde_coefficients(kernel: str, step: Step, s: float) -> tuple[float, float]:
    """(c, tau) = (sigma' - s^2 dt / (2 sigma), s sqrt(dt)) for the diffusion coefficient s."""
    if not step.is_flow:
        raise UserError(f"kernel {kernel} needs a flow-matching model; use ddim for a diffusion model")
    return step.sigma_next - s * s * step.dt / (2.0 * step.sigma), s * sqrt(step.dt)
