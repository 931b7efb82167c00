"""A right answer of a rare form counts more (Ada-GRPO of ARM, arXiv 2505.20258)."""

from collections.abc import Sequence
from math import cos, pi

import numpy as np
from pydantic import PositiveInt

from flowgrpo.core.errors import UserError
from flowgrpo.objective.transform import Graded, Transform


class Rarity(Transform):
    """R (1 + (G / F - 1) (1 + cos(pi u / `over`)) / 2) with F how many of the group's G samples have the same form, in update u.

    The form of a sample is what the reward `form` says of it: equal numbers are one form. The factor is G / F at first and 1 from
    update `over` on.
    """

    form: str
    over: PositiveInt = 1000

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.form,)

    def ends(self, low: float, high: float, group_size: int) -> tuple[float, float]:
        return low, max(high, high * group_size)

    def apply(self, groups: Sequence[Graded], update: int) -> list[np.ndarray]:
        if (least := min(group.reward.min() for group in groups)) < 0.0:
            raise UserError(
                f"transform '{self.type}' multiplies rewards, and one is {least:g}: a rare form would make it worse; take "
                "rewards that are never negative"
            )
        decay = 0.5 * (1.0 + cos(pi * min(1.0, update / self.over)))
        return [group.reward * (1.0 + (1.0 / _share(group.measured[self.form]) - 1.0) * decay) for group in groups]


def _share(forms: np.ndarray) -> np.ndarray:
    """[G]: the share of the group that has the same form as each sample."""
    _, inverse, counts = np.unique(forms, return_inverse=True, return_counts=True)
    return counts[inverse.reshape(-1)] / len(forms)
