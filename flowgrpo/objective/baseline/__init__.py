"""Baselines: what the credit of a set of transitions is compared with."""

from abc import abstractmethod
from collections.abc import Callable
from math import isfinite
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.memory import Record

Scaled = Callable[[np.ndarray, float], np.ndarray]
"""(centred credit [n], its deviation) -> [n], one over the other by `advantage.eps` and `advantage.floor`; 0 where both are."""


class Baseline(Component):
    brings_company: ClassVar[bool] = False
    """Whether others than the set's own are compared with."""

    @property
    def answers_silence(self) -> bool:
        """Whether it makes something of samples that all earn the same."""
        return self.brings_company

    def range_complaint(self, low: float, high: float) -> str | None:
        """Why rewards that may be anything in [low, high] can't be compared, or None."""
        return None

    def rehearsed(self) -> Self:
        """The same for a rehearsal, whose rewards may be anything in [-100, 100]."""
        return self

    def company(self, values: np.ndarray) -> np.ndarray:
        """Of a set's `values` [n]: those whose mean and deviation count, [n] or more."""
        return values

    def mean(self, values: np.ndarray) -> np.ndarray | float:
        """What is taken off each of a set's `values` [n]: [n], or one number."""
        return float(np.mean(self.company(values)))


class Remembering(Baseline):
    """Compares with what earlier updates saw of the prompt. Its numbers are a record by prompt (`objective/memory.py`), which
    goes into checkpoints; the baseline itself has no state."""

    scales: ClassVar[tuple[str, ...]] = ("none",)
    """What `advantage.std` may be."""
    tracks_value: ClassVar[bool] = False
    """Whether it knows what a prompt is worth, so that a group of one sample has something to compare with."""

    @property
    def answers_silence(self) -> bool:
        return True

    @property
    def measures_movement(self) -> bool:
        """Whether it asks how far the policy has moved since a prompt's last visit."""
        return False

    def aged(self, before: Record | None, moved: float) -> Record | None:
        """The record as it is when the policy has moved by `moved`: the mean over the ids of the prompt's last answer of
        |log p now - log p then|, 0 at the first visit."""
        return before

    @abstractmethod
    def visited(self, before: Record | None, values: np.ndarray, ddof: int) -> Record:
        """The record of a prompt after a visit whose transitions have the credit `values` [n]; `before` is None at the first."""

    @abstractmethod
    def compared(
        self, values: np.ndarray, before: Record | None, after: Record, least: float, ddof: int, scaled: Scaled
    ) -> np.ndarray:
        """[n]: what is left of a visit's `values` [n]. Values that differ by no more than `least` are equal."""

    def against_the_past(
        self, values: np.ndarray, before: Record | None, least: float, ddof: int, scaled: Scaled, moved: float = 0.0
    ) -> tuple[np.ndarray, Record]:
        """What `compared` and `visited` say, checked. Errors: UserError where they raise or give no finite numbers."""
        with user_code(f"baseline '{self.type}'"):
            before = self.aged(before, moved)
            after = self.visited(before, values.copy(), ddof)
            left = self.compared(values.copy(), before, after, least, ddof, scaled)
        if not isinstance(after, tuple) or not all(isinstance(x, float | int) and isfinite(x) for x in after):
            raise UserError(f"baseline '{self.type}': visited must return a tuple of finite numbers")
        if not isinstance(left, np.ndarray) or left.shape != values.shape or not np.isfinite(left).all():
            raise UserError(f"baseline '{self.type}': compared must return an array of {len(values)} finite numbers")
        return left, after

    def expected(self, record: Record) -> float:
        """What a prompt is worth, in [0, 1]; for those that track it."""
        raise NotImplementedError


AnyBaseline = Annotated[SerializeAsAny[Baseline], component(Baseline)]
__getattr__, __dir__ = components_of(__name__)
