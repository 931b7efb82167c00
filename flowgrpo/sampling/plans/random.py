"""A window that is drawn anew, for each update (Flow-GRPO-Fast) or for each prompt (Flash-GRPO, arXiv 2605.15980)."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans._steps import StepsPlan


class RandomWindow(StepsPlan):
    """`size` neighbouring steps; the first is uniform in `first` .. `last` - size + 1.

    `last` is the last step a window may hold; by default the one before the deterministic final step. `per` says who shares a
    draw: all of an `update`, or the members of a `prompt`'s group.
    """

    size: PositiveInt = 2
    first: NonNegativeInt = 0
    last: NonNegativeInt | None = None
    per: Literal["update", "prompt"] = "update"

    @property
    def drawn_for(self) -> Literal["update", "prompt"]:
        return self.per

    def end(self, steps: int) -> int:
        return steps - 2 if self.last is None else self.last

    def stochastic_steps(self, draw: Draw) -> list[int]:
        start = int(draw.rng.integers(self.first, self.end(draw.steps) - self.size + 2))
        return list(range(start, start + self.size))

    def window_complaint(self, steps: int) -> str | None:
        if self.end(steps) >= steps:
            return f"last = {self.last} is not one of the {steps} steps (0 .. {steps - 1})"
        room = self.end(steps) - self.first + 1
        return None if room >= self.size else f"a window of {self.size} steps does not fit into {max(room, 0)}"
