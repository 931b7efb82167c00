"""DPM-Solver++(2M), midpoint form (arXiv 2211.01095, algorithm 2): deterministic, second order."""

from math import inf, log

from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.levels import Step


class DpmPp2m(GaussianKernel):
    """The ODE step plus (alpha' - sigma' alpha / sigma) h / (2 h_before) (x0_hat - x0_hat_before).

    h = lambda' - lambda with lambda = log(alpha / sigma). The first step of a run of these, and a step from pure noise or to
    the clean sample (where h is infinite), are the first-order ODE step. History never crosses a stochastic transition.
    """

    def coefficients(self, step: Step) -> tuple[float, float]:
        return step.sigma_next, 0.0

    @property
    def stochastic(self) -> bool:
        return False

    @property
    def multistep(self) -> bool:
        return True

    def correction(self, before: Step, step: Step) -> float:
        h, h_before = _width(step), _width(before)
        if inf in (h, h_before):
            return 0.0
        return (step.alpha_next - step.sigma_next * step.alpha / step.sigma) * h / (2.0 * h_before)


def _width(step: Step) -> float:
    if step.alpha == 0.0 or step.sigma_next == 0.0:
        return inf
    return log(step.alpha_next / step.sigma_next) - log(step.alpha / step.sigma)
