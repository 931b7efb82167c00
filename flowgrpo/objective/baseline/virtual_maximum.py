"""A sample that nobody drew, with the best reward there is (NGRPO, arXiv 2509.18851)."""

from typing import ClassVar, Self

import numpy as np
from pydantic import PositiveInt

from flowgrpo.core.errors import UserError
from flowgrpo.core.rounding import rounding
from flowgrpo.objective.baseline import Baseline


class VirtualMaximum(Baseline):
    """`copies` samples of the credit `value` join the mean and the deviation of every set. So a set whose samples have all failed
    still says that they have: each of G gets -1 / sqrt(G + 1) with the unbiased deviation. One whose samples all have the best
    reward says nothing, as ever.

    Errors: UserError where a credit is above `value`, which then is no maximum.
    """

    value: float = 1.0
    copies: PositiveInt = 1
    brings_company: ClassVar[bool] = True

    def range_complaint(self, low: float, high: float) -> str | None:
        if "value" in self.model_fields_set or high <= self.value:
            return None
        return (
            f"advantage.baseline: {self.type} is a sample that earns {self.value:g}, and these rewards may be up to {high:g}"
            "; set advantage.baseline.value to the best that there is"
        )

    def rehearsed(self) -> Self:
        return self.model_copy(update={"value": 100.0})

    def company(self, values: np.ndarray) -> np.ndarray:
        if (best := float(values.max())) > self.value + rounding(values):
            raise UserError(
                f"advantage.baseline 'virtual_maximum': a sample's credit is {best:g}, above value = {self.value:g}; set "
                "advantage.baseline.value to the best reward that there is"
            )
        return np.append(values, [self.value] * self.copies)
