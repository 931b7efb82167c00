"""Levels of a grid, all equally likely (DiffusionNFT, arXiv 2509.16117: all of the sampler's own but one)."""

import numpy as np

from flowgrpo.sampling.noising import Levels


class Uniform(Levels):
    """No level twice."""

    def draw(self, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(sigmas))[: self.count]

    def complaint(self, steps: int) -> str | None:
        levels = self.grid or steps
        if self.count <= levels:
            return None
        return f"count = {self.count} levels can't be drawn from {levels}; set grid, or a smaller count"
