"""A length that may be used up, smaller and smaller as training goes on (Train Long, Think Short, reconstructed)."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from flowgrpo.objective.transform import Graded, Transform


class Budget(Transform):
    """R + `weight` t(L), t(L) = 1 up to the budget B, and from there linearly to 0 at 2 B, L what the reward `length` says.

    In update u B is `first` `factor`^floor(u / `every`), and never below `least`. The abstract says that the budget decays
    exponentially and that the reward is a triangle; the constants, and that answers below the budget all have the same, are ours.
    """

    length: str
    first: PositiveFloat
    least: PositiveFloat
    factor: float = Field(default=0.5, gt=0.0, le=1.0)
    every: PositiveInt = 100
    weight: PositiveFloat = 0.5

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.length,)

    def budget(self, update: int) -> float:
        return max(self.least, self.first * self.factor ** (update // self.every))

    def ends(self, low: float, high: float, group_size: int) -> tuple[float, float]:
        return low, high + self.weight

    def apply(self, groups: Sequence[Graded], update: int) -> list[np.ndarray]:
        most = self.budget(update)
        used = [group.measured[self.length] / most for group in groups]
        return [group.reward + self.weight * np.clip(2.0 - part, 0.0, 1.0) for group, part in zip(groups, used, strict=True)]
