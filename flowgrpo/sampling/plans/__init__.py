"""Plans: which kernel at which step, where to fork, what to complete, what to train. A plan may change over training."""

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
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
        """What `grow` says, completed. Errors: UserError where it raises, returns something else or trains nothing."""
        with user_code(f"plan '{self.type}'"):
            grown = self.grow(steps, group_size, update, rng)
        if not isinstance(grown, Shape):
            raise UserError(f"plan '{self.type}' returned a {type(grown).__name__}, and must return a Shape")
        if not grown.trained:
            raise UserError(f"plan '{self.type}' trains no transition in update {update}; a shape needs trained nodes")
        return complete(grown, self.completion, steps) if self.completion else grown


AnyPlan = Annotated[SerializeAsAny[Plan], component(Plan)]
__getattr__, __dir__ = components_of(__name__)
