"""A share that changes as training goes on."""

from pydantic import Field, PositiveInt

from flowgrpo.core.section import Section


class Ramp(Section):
    """From `first` to `last` in a straight line over the first `over` updates."""

    first: float = Field(gt=0.0, le=1.0)
    last: float = Field(gt=0.0, le=1.0)
    over: PositiveInt = 100

    def of(self, count: int, update: int) -> int:
        """So many of `count` in an update, at least 1."""
        progress = min(1.0, update / self.over)
        return max(1, round(count * ((1.0 - progress) * self.first + progress * self.last)))
