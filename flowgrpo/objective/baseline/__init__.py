"""Baselines: what the credit of a set of transitions is compared with."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component


class Baseline(Component):
    brings_company: ClassVar[bool] = False
    """Whether others than the set's own are compared with."""

    def company(self, values: np.ndarray) -> np.ndarray:
        """Of a set's `values` [n]: those whose mean and deviation count, [n] or more."""
        return values

    def mean(self, values: np.ndarray) -> np.ndarray | float:
        """What is taken off each of a set's `values` [n]: [n], or one number."""
        return float(np.mean(self.company(values)))


AnyBaseline = Annotated[SerializeAsAny[Baseline], component(Baseline)]
__getattr__, __dir__ = components_of(__name__)
