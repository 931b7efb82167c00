"""All visits of a prompt beside this one (DCPO's smooth advantage standardisation, arXiv 2509.02333, as in its code)."""

from typing import ClassVar

import numpy as np

from flowgrpo.objective.baseline import Remembering, Scaled
from flowgrpo.objective.memory import Record


class History(Remembering):
    """With A_new and A_all the credit standardised by this visit and by all i visits of the prompt, the smaller in size of
    (i - 1)/i A_new + 1/i A_all and 1/i A_new + (i - 1)/i A_all.

    A_new is 0 where all samples of the visit earn the same; A_all then still says whether that is more or less than before.
    """

    scales: ClassVar[tuple[str, ...]] = ("group",)

    def visited(self, before: Record | None, values: np.ndarray, ddof: int) -> Record:
        """(visits, mean, variance) of all visits, each counting the same."""
        visits, mean, variance = before or (0.0, 0.0, 0.0)
        new, i = float(values.mean()), visits + 1.0
        between = visits / i * (new - mean) ** 2
        own = float(np.var(values, ddof=min(ddof, len(values) - 1)))
        return i, (visits * mean + new) / i, (visits * variance + own + between) / i

    def compared(
        self, values: np.ndarray, before: Record | None, after: Record, least: float, ddof: int, scaled: Scaled
    ) -> np.ndarray:
        i, mean, variance = after
        spread = float(np.std(values, ddof=min(ddof, len(values) - 1))) if np.ptp(values) > least else 0.0
        new = scaled(values - values.mean(), spread) if spread else np.zeros(len(values))
        overall = scaled(values - mean, variance**0.5) if variance**0.5 > least else np.zeros(len(values))
        late, early = ((i - 1) * new + overall) / i, (new + (i - 1) * overall) / i
        return np.where(np.abs(late) <= np.abs(early), late, early)
