"""Kernels: the law of one transition. Every continuous sampler is x' = alpha' x0_hat + c x1_hat + tau eps."""

from abc import abstractmethod
from typing import Annotated

from pydantic import SerializeAsAny

from flowgrpo.sampling.levels import Step
from flowgrpo.section import Component, component


class Kernel(Component):
    """A kernel answers one question: given the noise levels of a step, what are (c, tau)?"""

    @abstractmethod
    def coefficients(self, step: Step) -> tuple[float, float]:
        """(c, tau): the weight of the predicted noise in the mean, and the standard deviation of the fresh noise."""

    @property
    def stochastic(self) -> bool:
        """Whether transitions have a density; a deterministic kernel can't be trained on."""
        return True

    def log_prob_scale(self, tau: float) -> float:
        """Factor on the Gaussian log-density (1 unless a paper's own convention is asked for)."""
        return 1.0


AnyKernel = Annotated[SerializeAsAny[Kernel], component(Kernel, "flowgrpo.sampling.kernels")]
