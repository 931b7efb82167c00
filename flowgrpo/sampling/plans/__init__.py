"""Plans: which kernel at which step, where to fork, what to complete, what to train. A plan may change over training."""

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.section import Component, component
from flowgrpo.sampling.completion import Completion, complete
from flowgrpo.sampling.kernels import AnyKernel
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.shape import Shape


class Plan(Component):
    """Draws the shape of every group of an update. All groups of an update share it.

    `kernel` is the law of the trained steps. `shared_start`: the members of a group begin from the same noise (DanceGRPO,
    MixGRPO). `completion` adds deterministic completions of intermediate states, for credit rules that need their value.
    """

    kernel: AnyKernel = FlowSde()
    shared_start: bool = False
    completion: Completion | None = None

    @abstractmethod
    def grow(self, steps: int, group_size: int, update: int, rng: np.random.Generator) -> Shape:
        """The policy's own transitions; no draw but from `rng`, so that a plan needs no state."""

    @abstractmethod
    def complaint(self, steps: int, group_size: int) -> str | None:
        """Why the plan can't work with these numbers, or None."""

    def shape(self, steps: int, group_size: int, update: int, rng: np.random.Generator) -> Shape:
        grown = self.grow(steps, group_size, update, rng)
        return complete(grown, self.completion, steps) if self.completion else grown


AnyPlan = Annotated[SerializeAsAny[Plan], component(Plan, "flowgrpo.sampling.plans")]
