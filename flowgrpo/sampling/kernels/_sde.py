"""One Euler-Maruyama step of the SDE that shares its marginals with the flow; kernels differ in its diffusion only."""

from collections.abc import Callable
from math import sqrt

from flowgrpo.sampling.levels import Step


def sde_coefficients(step: Step, diffusion: Callable[[Step], float]) -> tuple[float, float]:
    """(c, tau) = (sigma' - s^2 dt / (2 sigma), s sqrt(dt)) for the diffusion coefficient s, in the units of the flow.

    A state of a diffusion model, divided by alpha + sigma, is one of flow matching at noise level sigma / (alpha + sigma): the
    step is made there and multiplied back.
    """
    flow, scale = step.as_flow(), 1.0 if step.is_flow else step.alpha_next + step.sigma_next
    s = diffusion(flow)
    return scale * (flow.sigma_next - s * s * flow.dt / (2.0 * flow.sigma)), scale * (s * sqrt(flow.dt))
