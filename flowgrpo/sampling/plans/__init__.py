"""Plans: which kernel at which step, where to fork, what to complete, what to train. A plan may change over training."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.sampling.completion import AnyCompletion
from flowgrpo.sampling.kernels import AnyKernel
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.shape import Shape


@dataclass(frozen=True)
class Spread:
    """How far rewards were found to differ: `steps` [S], the standard deviation among continuations of one state that part at a
    step, NaN where none was seen; `prompts`, that of a prompt's group by the prompt's index."""

    steps: np.ndarray
    prompts: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """A shape to draw: of a group of G = `group_size` members in S = `steps` steps. All chance comes from `rng`, and all that a
    plan may know of earlier updates from `spread`, so that it needs no state."""

    steps: int
    group_size: int
    update: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    spread: Spread | None = None


class Plan(Component):
    """Draws the shapes of the groups of an update.

    `kernel` is the law of the trained steps. `shared_start`: the members of a group begin from the same noise (DanceGRPO,
    MixGRPO). `completion` values intermediate states, for credit rules that need that.
    """

    trains_outcomes: ClassVar[bool] = False
    """Whether finished samples are trained and not the steps that made them, so that no step needs noise."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Of the prompts' rows, where these name the pictures that are trained, and none is made."""

    kernel: AnyKernel = FlowSde()
    shared_start: bool = False
    completion: AnyCompletion | None = None

    @property
    def drawn_for(self) -> Literal["update", "prompt"]:
        """Whether all groups of an update share one draw, or each has its own."""
        return "update"

    @abstractmethod
    def grow(self, draw: Draw) -> Shape:
        """The policy's own transitions."""

    @abstractmethod
    def complaint(self, steps: int, group_size: int) -> str | None:
        """Why the plan can't work with these numbers, or None."""

    def shape(self, draw: Draw) -> Shape:
        """What `grow` says, completed. Errors: UserError where it raises, returns something else or trains nothing."""
        with user_code(f"plan '{self.type}'"):
            grown = self.grow(draw)
        if not isinstance(grown, Shape):
            raise UserError(f"plan '{self.type}' returned a {type(grown).__name__}, and must return a Shape")
        if not grown.trained:
            raise UserError(f"plan '{self.type}' trains no transition in update {draw.update}; a shape needs trained nodes")
        return self.completion.complete(grown, draw.steps) if self.completion else grown


AnyPlan = Annotated[SerializeAsAny[Plan], component(Plan)]
__getattr__, __dir__ = components_of(__name__)
