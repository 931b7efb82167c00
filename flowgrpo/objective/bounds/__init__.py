"""Bounds: how far a ratio may leave 1."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.batch import LossInputs

Bound = Any
"""A log-ratio: a number, or [C, D]."""


class Bounds(Component):
    needs_entropy: ClassVar[bool] = False
    needs_ids: ClassVar[bool] = False
    """Whether it reads how probable a decision was, which a density does not say."""

    @abstractmethod
    def of(self, batch: LossInputs) -> tuple[Bound, Bound]:
        """(lowest, highest)."""


def _short(value: Any) -> Any:
    """A number stands for both sides of `constant`, and [low, high] for its two."""
    if isinstance(value, list | tuple) and len(value) != 2:
        raise ValueError(f"must be one number for both sides, [low, high] or bounds by name, not {value}")
    low, high = value if isinstance(value, list | tuple) else (value, value)
    return {"type": "constant", "low": low, "high": high} if isinstance(low, int | float) else value


AnyBounds = Annotated[SerializeAsAny[Bounds], component(Bounds), BeforeValidator(_short)]
__getattr__, __dir__ = components_of(__name__)
