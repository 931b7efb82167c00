"""Noise levels at which finished samples are trained: objectives of the forward process noise a sample anew and ask the network
there, instead of scoring the steps that made it.

Shapes: N levels of a grid, from noise to sample, K of them drawn.
"""

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component


class Levels(Component):
    """Draws `count` (K) levels out of `first` .. `last` of a `grid`, for a group of samples.

    The levels of a grid are those of the model's own sampler in so many steps, from noise on, its last, the clean sample, left
    out; null: as many steps as the rollout has. `last` null: to the end.
    """

    count: PositiveInt = 3
    grid: PositiveInt | None = None
    first: NonNegativeInt = 0
    last: NonNegativeInt | None = None

    @abstractmethod
    def draw(self, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """[K] places in `sigmas` [N], falling: the noise levels to draw from, as flow matching has them."""

    def most(self, levels: int) -> int | None:
        """How many can be drawn from so many levels; null: any number."""
        return None

    def complaint(self, steps: int) -> str | None:
        """Why they can't be drawn beside rollouts of so many steps, or None."""
        grid = self.grid or steps
        last = grid - 1 if self.last is None else self.last
        if not self.first <= last < grid:
            return f"first = {self.first} .. last = {last} must be a range in 0 .. {grid - 1}, the levels of {grid} steps"
        levels = last - self.first + 1
        if (most := self.most(levels)) is not None and self.count > most:
            return f"count = {self.count} levels can't be drawn from {levels}; set grid, a wider range, or a smaller count"
        return None

    def drawn(self, sigmas: np.ndarray, rng: np.random.Generator) -> list[int]:
        """[K] places in the grid, whose levels are `sigmas`. Errors: UserError where `draw` raises or says something else."""
        sigmas = sigmas[self.first : None if self.last is None else self.last + 1]
        with user_code(f"levels '{self.type}'"):
            places = np.asarray(self.draw(sigmas, rng))
        if places.shape != (self.count,) or places.dtype.kind != "i" or ((places < 0) | (places >= len(sigmas))).any():
            raise UserError(f"levels '{self.type}' must draw {self.count} integers from 0 to {len(sigmas) - 1}, not {places}")
        return [self.first + int(place) for place in places]


AnyLevels = Annotated[SerializeAsAny[Levels], component(Levels)]
__getattr__, __dir__ = components_of(__name__)
