"""Plans: which kernel at which step, where to fork, what to train. A plan may change over training."""

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.sampling.kernels import AnyKernel, Kernel
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.shape import Shape
from flowgrpo.section import Component, component


class Plan(Component):
    """Draws the shape of every group of an update. All groups of an update share it.

    `shared_start`: the members of a group begin from the same noise (DanceGRPO, MixGRPO).
    """

    kernel: AnyKernel = FlowSde()
    shared_start: bool = False

    @abstractmethod
    def stochastic_steps(self, steps: int, update: int, rng: np.random.Generator) -> list[int]:
        """The steps of this update, out of 0 .. steps - 1, that are sampled from `kernel` and trained."""

    @abstractmethod
    def complaint(self, steps: int) -> str | None:
        """Why the plan can't work with this many steps, or None."""

    def shape(self, steps: int, group_size: int, update: int, rng: np.random.Generator) -> Shape:
        chosen = set(self.stochastic_steps(steps, update, rng))
        kernels: list[Kernel] = [self.kernel if i in chosen else Ode() for i in range(steps)]
        return Shape.chains(kernels, group_size, self.shared_start)


AnyPlan = Annotated[SerializeAsAny[Plan], component(Plan, "flowgrpo.sampling.plans")]
