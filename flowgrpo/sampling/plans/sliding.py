"""A window that slides over the steps during training (MixGRPO, arXiv 2507.21802, progressive strategy)."""

from typing import Literal

import numpy as np
from pydantic import PositiveInt

from flowgrpo.sampling.plans import Plan


class SlidingWindow(Plan):
    """`size` steps; every `every` updates the window moves on by `stride`, and stays at the last place that fits.

    `roll_back` starts again at step 0 after that instead. The window never reaches the deterministic final step and
    is never cut short.
    """

    type: Literal["sliding"] = "sliding"
    size: PositiveInt = 4
    every: PositiveInt = 25
    stride: PositiveInt = 1
    roll_back: bool = False

    def stochastic_steps(self, steps: int, update: int, rng: np.random.Generator) -> list[int]:
        last_start = steps - 1 - self.size
        places = -(-last_start // self.stride) + 1
        move = update // self.every
        place = move % places if self.roll_back else min(move, places - 1)
        start = min(place * self.stride, last_start)
        return list(range(start, start + self.size))

    def complaint(self, steps: int) -> str | None:
        room = steps - 1
        return None if self.size <= room else f"a window of {self.size} steps does not fit into the first {room}"
