"""Right answers may be short once the group is right often enough (GRPO-lambda)."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from pydantic import Field

from flowgrpo.core.rounding import rounding
from flowgrpo.objective.transform import Graded, Transform


class Concise(Transform):
    """R (1 - `penalty` sigmoid((L - mean) / deviation)) for right samples of the ceil(`share` P) most accurate of P groups; all
    others keep R.

    L is what the reward `length` says, its mean and deviation are those of the group's right samples. Right is a sample with a
    reward of at least `right`; of groups that are as accurate the earlier ones come first.
    """

    length: str
    share: float = Field(default=0.2, gt=0.0, le=1.0)
    penalty: float = Field(default=0.6, gt=0.0, le=1.0)
    right: float = 1.0

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.length,)

    def ends(self, low: float, high: float, group_size: int) -> tuple[float, float]:
        return min(low, max(self.right, low) * (1.0 - self.penalty)), max(high, high * (1.0 - self.penalty))

    def apply(self, groups: Sequence[Graded], update: int) -> list[np.ndarray]:
        right = [group.reward >= self.right - rounding(np.array(self.right)) for group in groups]
        ranked = np.argsort([-row.mean() for row in right], kind="stable")
        chosen = {*ranked[: ceil(self.share * len(groups))].tolist()}
        return [
            self._shortened(group, row) if i in chosen and row.any() else group.reward
            for i, (group, row) in enumerate(zip(groups, right, strict=True))
        ]

    def _shortened(self, group: Graded, right: np.ndarray) -> np.ndarray:
        lengths = group.measured[self.length]
        mean, spread = lengths[right].mean(), lengths[right].std()
        above = (lengths - mean) / spread if spread > rounding(lengths) else np.zeros(len(lengths))
        return group.reward * np.where(right, 1.0 - self.penalty / (1.0 + np.exp(-np.where(right, above, 0.0))), 1.0)
