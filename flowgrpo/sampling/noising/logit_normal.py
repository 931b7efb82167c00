"""Levels around the middle, as many flow models were trained (Stable Diffusion 3, arXiv 2403.03206, section 3.1)."""

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from flowgrpo.sampling.noising import Levels


class LogitNormal(Levels):
    """sigma = 1 / (1 + exp(-z)) with z ~ N(`mean`, `std`^2), moved to the nearest level of the grid."""

    grid: PositiveInt | None = 50
    mean: float = 0.0
    std: PositiveFloat = 1.0

    def draw(self, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        wanted = 1.0 / (1.0 + np.exp(-rng.normal(self.mean, self.std, self.count)))
        return np.abs(wanted[:, None] - sigmas).argmin(1)
