"""Kernels: the law of one transition, given what the network predicts at the state that it leaves."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import SerializeAsAny

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.sampling.levels import Step


class Kernel(Component):
    """What plans and credit know of a step; how it is sampled and scored is the business of its law (`sampling.laws`)."""

    noise_scale: ClassVar[bool] = False
    """Whether steps have a scale of noise that objectives may weigh by."""
    log_ratio_unit: ClassVar[float] = 1.0
    """In what multiples log-ratios of its steps are large or small, so that a threshold means the same for ids and latents."""

    @property
    def stochastic(self) -> bool:
        """Whether transitions have a density; a deterministic kernel can't be trained on."""
        return True

    @abstractmethod
    def deterministic(self) -> "Kernel":
        """The law of the same family without chance, for the steps that are not trained."""

    @property
    def ends_stochastic(self) -> bool:
        """Whether the last step of a rollout is drawn from this law too, rather than from the deterministic one."""
        return False

    @property
    def multistep(self) -> bool:
        """Whether the next transition of this kernel looks back at the state before."""
        return False

    def complaint(self, steps: int) -> str | None:
        """Why the kernel can't serve a schedule of this many steps, or None."""
        return None


class GaussianKernel(Kernel):
    """Over continuous states, where every sampler is x' = alpha' x0_hat + c x1_hat + tau eps: given the noise levels of a step,
    what are (c, tau)?"""

    noise_scale: ClassVar[bool] = True
    log_ratio_unit: ClassVar[float] = 5e-4
    """Log-probs are means over dimensions: the usual clip ranges, 1e-4 here and 0.2 for ids, are as many units."""

    @abstractmethod
    def coefficients(self, step: Step) -> tuple[float, float]:
        """(c, tau): the weight of the predicted noise in the mean, and the standard deviation of the fresh noise."""

    def checked(self, step: Step) -> tuple[float, float]:
        """The `coefficients`. Errors: UserError where they raise or are not two numbers with tau >= 0."""
        with user_code(f"kernel '{self.type}'"):
            coefficients = self.coefficients(step)
        if not isinstance(coefficients, tuple) or len(coefficients) != 2:
            raise UserError(f"kernel '{self.type}' must return (c, tau) as its coefficients, and returned {coefficients!r}")
        with user_code(f"kernel '{self.type}'"):
            c, tau = (float(number) for number in coefficients)
        if not (math.isfinite(c) and math.isfinite(tau) and tau >= 0.0):
            levels = f"from noise level {step.sigma:g} to {step.sigma_next:g}"
            raise NotFinite(
                f"kernel '{self.type}' gave c = {c:g}, tau = {tau:g} {levels}; both must be numbers, tau not negative"
            )
        return c, tau

    def deterministic(self) -> Kernel:
        from flowgrpo.sampling.kernels.ode import Ode

        return Ode()

    def correction(self, before: Step, step: Step) -> float:
        """Weight of x0_hat - (x0_hat of the state before) in the mean, for a multistep kernel."""
        return 0.0

    def log_prob_scale(self, tau: float) -> float:
        """Factor on the Gaussian log-density (1 unless a paper's own convention is asked for)."""
        return 1.0


KernelFamily = type[Kernel]


@dataclass(frozen=True, slots=True)
class Move:
    """A transition to make, from noise level `source` to `target` (indices into the schedule; a jump may skip levels).

    `before` is the level of the state before the source when that state is remembered for a multistep kernel.
    """

    kernel: Kernel
    source: int
    target: int
    before: int | None = None


AnyKernel = Annotated[SerializeAsAny[Kernel], component(Kernel)]
__getattr__, __dir__ = components_of(__name__)
