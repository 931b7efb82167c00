"""What a prompt is worth, from its earlier visits (Single-stream Policy Optimization, arXiv 2509.13232)."""

from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from flowgrpo.core.errors import UserError
from flowgrpo.objective.baseline import Remembering, Scaled
from flowgrpo.objective.memory import Record

Kept = Annotated[float, Field(gt=0.0, lt=1.0)]


class Tracker(Remembering):
    """v = a / (a + b), as it was before the visit. Then a = k a + R and b = k b + 1 - R, with R the visit's mean credit and k =
    `keep`; both begin at `prior`.

    One sample a prompt will do. Credit lies in [`low`, `high`] and is taken to [0, 1] for R; v is taken back. `std: global`
    makes what is left of the whole update have mean 0 and deviation 1.
    `keep` [0.875, 0.96], as published: k is 2^(-D / `half`) within these, D the mean |log p now - log p then| over the ids of the
    prompt's last answer, which is kept for that. Each id is scored on an empty canvas, at two network evaluations a visit. There
    are no samples before training that would tell a first v.
    """

    low: float = 0.0
    high: float = 1.0
    keep: Kept | tuple[Kept, Kept] = 0.9
    half: PositiveFloat = 0.06
    prior: float = Field(default=0.5, gt=0.0)
    scales: ClassVar[tuple[str, ...]] = ("none", "global")
    tracks_value: ClassVar[bool] = True

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}: the least and the most that a sample earns")
        if isinstance(self.keep, tuple) and self.keep[0] > self.keep[1]:
            raise ValueError(f"keep = {list(self.keep)} must be one number, or [low, high] with low not above high")
        return self

    @property
    def measures_movement(self) -> bool:
        return isinstance(self.keep, tuple)

    def aged(self, before: Record | None, moved: float) -> Record:
        a, b = before or (self.prior, self.prior)
        k = min(max(2.0 ** (-moved / self.half), self.keep[0]), self.keep[1]) if isinstance(self.keep, tuple) else self.keep
        return k * a, k * b

    def range_complaint(self, low: float, high: float) -> str | None:
        if {"low", "high"} & self.model_fields_set or (self.low <= low and high <= self.high):
            return None
        return (
            f"advantage.baseline: tracker takes rewards in [{self.low:g}, {self.high:g}], and these may be in [{low:g}, {high:g}]"
            "; set advantage.baseline.low and advantage.baseline.high to the least and the most that a sample can earn"
        )

    def rehearsed(self) -> Self:
        return self.model_copy(update={"low": -100.0, "high": 100.0})

    def visited(self, before: Record | None, values: np.ndarray, ddof: int) -> Record:
        """(a, b)"""
        a, b = before or (self.prior, self.prior)
        share = (float(values.mean()) - self.low) / (self.high - self.low)
        return a + share, b + 1.0 - share

    def compared(
        self, values: np.ndarray, before: Record | None, after: Record, least: float, ddof: int, scaled: Scaled
    ) -> np.ndarray:
        """Errors: UserError for credit outside of [low, high]."""
        worst, best = float(values.min()), float(values.max())
        if worst < self.low - least or best > self.high + least:
            raise UserError(
                f"advantage.baseline 'tracker': a sample's credit is {worst if worst < self.low - least else best:g}, outside "
                f"[{self.low:g}, {self.high:g}]; set advantage.baseline.low and advantage.baseline.high to the least and the "
                "most that a sample can earn"
            )
        share = self.expected(before or (self.prior, self.prior))
        return values - (self.low + share * (self.high - self.low))

    def expected(self, record: Record) -> float:
        a, b = record
        return a / (a + b)
