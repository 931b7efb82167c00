"""A window that is drawn anew in each update (Flow-GRPO-Fast)."""

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from flowgrpo.sampling.plans._steps import StepsPlan


class RandomWindow(StepsPlan):
    """`size` neighbouring steps; the first is uniform in `first` .. `last` - size + 1.

    `last` is the last step a window may hold; by default the one before the deterministic final step.
    """

    size: PositiveInt = 2
    first: NonNegativeInt = 0
    last: NonNegativeInt | None = None

    def end(self, steps: int) -> int:
        return steps - 2 if self.last is None else self.last

    def stochastic_steps(self, steps: int, update: int, rng: np.random.Generator) -> list[int]:
        start = int(rng.integers(self.first, self.end(steps) - self.size + 2))
        return list(range(start, start + self.size))

    def window_complaint(self, steps: int) -> str | None:
        if self.end(steps) >= steps:
            return f"last = {self.last} is not one of the {steps} steps (0 .. {steps - 1})"
        room = self.end(steps) - self.first + 1
        return None if room >= self.size else f"a window of {self.size} steps does not fit into {max(room, 0)}"
