"""Levels of a grid, all equally likely (DiffusionNFT, arXiv 2509.16117: all of the sampler's own but one)."""

import numpy as np

from flowgrpo.sampling.noising import Levels


class Uniform(Levels):
    """No level twice."""

    def draw(self, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(sigmas))[: self.count]

    def most(self, levels: int) -> int | None:
        return levels
