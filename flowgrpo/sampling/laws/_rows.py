"""What laws of transitions with one number each have in common.

C transitions; x is [C, ...].
"""

from dataclasses import dataclass, fields
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """All fields are [C]."""

    def select(self, rows: Tensor) -> Self:
        return type(self)(*(vars(self)[field.name][rows] for field in fields(self)))


def like(scalars: Tensor, x: Tensor) -> Tensor:
    """[C, 1, ...]: numbers [C] that x is multiplied by."""
    return scalars.view(-1, *[1] * (x.ndim - 1))


def mean_of(x: Tensor) -> Tensor:
    """[C]: over the dimensions of a state."""
    return x.flatten(1).mean(1)
