"""The mean of the set's others (RLOO, arXiv 2402.14740)."""

import numpy as np

from flowgrpo.objective.baseline import Baseline


class Others(Baseline):
    """Leave-one-out: no bias, since a sample's own draw has no part in it. One alone is compared with itself."""

    def mean(self, values: np.ndarray) -> np.ndarray | float:
        return (values.sum() - values) / (len(values) - 1) if len(values) > 1 else values
