"""Completions: what tells what a state of a rollout is worth, before there is a sample of it."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.sampling.shape import Shape


class Completion(Component):
    """Which states are valued, and how: every `every`-th level, or only those in `at`.

    A state that the plan itself continues deterministically has the value of what it becomes, which costs nothing.
    """

    every: PositiveInt = 1
    at: tuple[NonNegativeInt, ...] | None = None

    @abstractmethod
    def complete(self, shape: Shape, steps: int) -> Shape:
        """The shape with a value for every wanted state that no deterministic transition leaves yet."""

    def complaint(self, steps: int) -> str | None:
        """Why states of a rollout of so many steps can't be valued so, or None."""
        outside = [level for level in self.at or () if level >= steps]
        return f"completion.at {outside}: there are {steps} levels to complete from (0 .. {steps - 1})" if outside else None

    def wanted(self, shape: Shape) -> Iterator[int]:
        """The nodes to value."""
        for i, node in enumerate(shape.nodes):
            kernels = [kernel for child in shape.children[i] if (kernel := shape.nodes[child].kernel)]
            chosen = node.step in self.at if self.at is not None else node.step % self.every == 0
            if kernels and chosen and all(kernel.stochastic for kernel in kernels):
                yield i


def levels(start: int, end: int, count: int | None) -> list[int]:
    """At most `count` levels (all when None) from `start`, exclusive, to `end`, inclusive, evenly spaced by index."""
    remaining = end - start
    count = remaining if count is None else min(count, remaining)
    return [start + round(float(x)) for x in np.linspace(0, remaining, count + 1)[1:]]


def _typed(value: Any) -> Any:
    return {"type": "deterministic", **value} if isinstance(value, dict) else value


AnyCompletion = Annotated[SerializeAsAny[Completion], component(Completion), BeforeValidator(_typed)]
"""`deterministic` where a config names no type."""
__getattr__, __dir__ = components_of(__name__)
