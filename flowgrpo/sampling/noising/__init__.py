"""Noise levels at which finished samples are trained: objectives of the forward process noise a sample anew and ask the network
there, instead of scoring the steps that made it.

Shapes: N levels of a grid, from noise to sample, K of them drawn.
"""

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import PositiveInt, SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component


class Levels(Component):
    """Draws `count` (K) levels of a `grid`, for a group of samples.

    The levels of a grid are those of the model's own sampler in so many steps, its last, the clean sample, left out; null: as
    many steps as the rollout has.
    """

    count: PositiveInt = 3
    grid: PositiveInt | None = None

    @abstractmethod
    def draw(self, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """[K] places in the grid; `sigmas` [N], falling, are its noise levels as flow matching has them."""

    def complaint(self, steps: int) -> str | None:
        """Why they can't be drawn beside rollouts of so many steps, or None."""
        return None

    def drawn(self, sigmas: np.ndarray, rng: np.random.Generator) -> list[int]:
        """What `draw` says. Errors: UserError where it raises or says something else."""
        with user_code(f"levels '{self.type}'"):
            places = np.asarray(self.draw(sigmas, rng))
        if places.shape != (self.count,) or places.dtype.kind != "i" or ((places < 0) | (places >= len(sigmas))).any():
            raise UserError(f"levels '{self.type}' must draw {self.count} integers from 0 to {len(sigmas) - 1}, not {places}")
        return [int(place) for place in places]


AnyLevels = Annotated[SerializeAsAny[Levels], component(Levels)]
__getattr__, __dir__ = components_of(__name__)
