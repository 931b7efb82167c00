"""The same bounds for every decision (PPO, arXiv 1707.06347; two different ones: DAPO, arXiv 2503.14476)."""

from math import log1p

from pydantic import Field, PositiveFloat, model_serializer

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds


class Constant(Bounds):
    """r in [1 - low, 1 + high]. A config says `clip: 1e-4` or `clip: [low, high]` for short."""

    low: float = Field(gt=0.0, lt=1.0)
    high: PositiveFloat

    def of(self, batch: LossInputs) -> tuple[float, float]:
        return log1p(-self.low), log1p(self.high)

    @model_serializer
    def _short(self) -> list[float]:
        return [self.low, self.high]
