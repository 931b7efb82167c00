"""Transforms: what training makes of the rewards of finished samples before they become credit. Pure functions of rewards and of
the number of the update; metrics and reports keep the rewards as they are.

G samples of a group.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.core.plugins import components_of, nearest
from flowgrpo.core.section import Component, component


@dataclass(frozen=True)
class Graded:
    """A group's samples: the weighted sum of their rewards [G], and by label what each reward, with a weight or without, says of
    them [G]."""

    reward: np.ndarray
    measured: Mapping[str, np.ndarray]


class Transform(Component):
    """Several in a config are applied one after the other. What a transform has to know of a sample, such as its length, is a
    reward with weight 0, which is measured, shown and judged like any other."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The labels of the rewards that it looks up in `measured`."""
        return ()

    def ends(self, low: float, high: float, group_size: int) -> tuple[float, float]:
        """What rewards in [low, high] may become; the same, where a transform does not say."""
        return low, high

    @abstractmethod
    def apply(self, groups: Sequence[Graded], update: int) -> list[np.ndarray]:
        """For each group of an update the new rewards [G]."""

    def applied(self, groups: Sequence[Graded], update: int) -> list[np.ndarray]:
        """What `apply` says, checked. Errors: UserError where it raises or returns no number for a sample."""
        with user_code(f"transform '{self.type}'"):
            new = self.apply(groups, update)
        sizes = [len(group.reward) for group in groups]
        if not isinstance(new, list) or [np.shape(row) for row in new] != [(size,) for size in sizes]:
            raise UserError(f"transform '{self.type}' must return a list of arrays, a number for every sample of each group")
        if not all(np.isfinite(row).all() for row in new):
            raise NotFinite(f"transform '{self.type}' made rewards that are no finite numbers")
        return [np.asarray(row, float) for row in new]

    def complaint(self, labels: Sequence[str]) -> str | None:
        """Why it can't work on rewards with these labels, or None."""
        missing = next((label for label in self.reads if label not in labels), None)
        if missing is None:
            return None
        return (
            f"transform '{self.type}' reads the reward '{missing}', and there is none ({nearest(missing, labels)}); add it to "
            "rewards, with weight 0 to measure only"
        )


def transformed(transforms: Sequence[Transform], groups: Sequence[Graded], update: int) -> list[np.ndarray]:
    """The rewards of each group [G] after all transforms, one after the other."""
    for transform in transforms:
        rows = transform.applied(groups, update)
        groups = [Graded(row, group.measured) for row, group in zip(rows, groups, strict=True)]
    return [group.reward for group in groups]


AnyTransform = Annotated[SerializeAsAny[Transform], component(Transform)]
__getattr__, __dir__ = components_of(__name__)
