"""A window that slides over the steps during training (MixGRPO, arXiv 2507.21802)."""

from math import ceil, exp
from typing import ClassVar, Literal

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans._steps import StepsPlan


class SlidingWindow(StepsPlan):
    """`size` steps that begin at step 0; after some updates the window moves on by `stride`, and stays at the last start.

    `pace` says how many updates a window lasts that begins at step l of at most M, with `every` = e:
    `progressive` e; `decay` from e down to `least`, linearly in l / M; `exp_decay` ceil(e exp(-rate max(0, l - knee)));
    `frozen` for ever.
    `roll_back` starts again at step 0 after the last start. The window never reaches the deterministic final step and is
    never cut short: the published code can give empty and short windows there.
    """

    renamed: ClassVar[dict[str, str]] = {"schedule": "pace"}

    size: PositiveInt = 4
    pace: Literal["progressive", "decay", "exp_decay", "frozen"] = "progressive"
    every: PositiveInt = 25
    least: PositiveInt = 1
    rate: NonNegativeFloat = 0.1
    knee: NonNegativeInt = 13
    stride: PositiveInt = 1
    roll_back: bool = False

    def stochastic_steps(self, draw: Draw) -> list[int]:
        start = self._start(draw.update, draw.steps - 1 - self.size)
        return list(range(start, start + self.size))

    def _start(self, update: int, last: int) -> int:
        if self.pace == "frozen":
            return 0
        starts = [min(start, last) for start in range(0, last + self.stride, self.stride)]
        ends = np.cumsum([self._updates(start, last) for start in starts])
        if self.roll_back:
            update %= int(ends[-1])
        return starts[min(int(np.searchsorted(ends, update, side="right")), len(starts) - 1)]

    def _updates(self, start: int, last: int) -> int:
        match self.pace:
            case "decay":
                return max(1, round(self.every + (self.least - self.every) * start / max(last, 1)))
            case "exp_decay":
                return ceil(self.every * exp(-self.rate * max(0, start - self.knee)))
        return self.every

    def window_complaint(self, steps: int) -> str | None:
        room = steps - 1
        return None if self.size <= room else f"a window of {self.size} steps does not fit into the first {room}"
