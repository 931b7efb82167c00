"""A given answer beside samples of which none is right (DaGRPO's anchors, arXiv 2512.06337, reconstructed)."""

import numpy as np

from flowgrpo.core.rounding import rounding
from flowgrpo.objective.baseline.virtual_maximum import VirtualMaximum


class Anchor(VirtualMaximum):
    """`virtual_maximum` where no sample of a set has the credit `right` or more; elsewhere the set is alone.

    `objective.auxiliary` `answers`, `by` `advantage`, trains the answer that stands for it.
    """

    right: float = 1.0

    def company(self, values: np.ndarray) -> np.ndarray:
        if float(values.max()) >= self.right - rounding(np.array(self.right)):
            return values
        return super().company(values)
