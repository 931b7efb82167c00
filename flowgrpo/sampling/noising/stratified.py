"""One level from each part of a grid."""

import numpy as np

from flowgrpo.sampling.noising import Levels


class Stratified(Levels):
    """The k-th of K is drawn from the k-th K-th of the grid, so that every draw has early and late levels."""

    def draw(self, sigmas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (len(sigmas) * (np.arange(self.count) + rng.random(self.count)) / self.count).astype(int)
