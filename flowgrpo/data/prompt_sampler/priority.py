"""Prompts that are neither solved nor hopeless (Single-stream Policy Optimization, arXiv 2509.13232)."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompt_sampler import PromptSampler


class Priority(PromptSampler):
    """Without replacement, by the weights sqrt(v (1 - v)) + `least` with v a prompt's tracked value; one that no update had
    counts as v = 1/2."""

    least: float = Field(default=0.05, gt=0.0)
    needs_values: ClassVar[bool] = True

    def draw(self, count: int, update: int, seed: int, values: np.ndarray) -> np.ndarray:
        weights = self.weights(values)
        return numpy_generator((seed, "prompts", update)).choice(len(values), count, replace=False, p=weights / weights.sum())

    def weights(self, values: np.ndarray) -> np.ndarray:
        """[N]"""
        v = np.where(np.isnan(values), 0.5, values)
        return np.sqrt(v * (1.0 - v)) + self.least
