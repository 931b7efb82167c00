"""The chain of next ids (JustGRPO): exact for a canvas that is filled from left to right, one id a step."""

import numpy as np
from pydantic import PositiveInt

from flowgrpo.sampling.likelihood import Likelihood, Masks, whole


class LeftToRight(Likelihood):
    """log p_i = log p(y_i | y_1 .. y_{i-1}, the rest masked): `length` network evaluations, the policy's length.

    After a rollout with kernel `left_to_right` and as many steps, `trajectory` gives the same without them.
    """

    length: PositiveInt

    @property
    def states(self) -> int:
        return self.length

    def complaint(self, length: int) -> str | None:
        return None if length == self.length else f"likelihood.length = {self.length} must be the policy's length = {length}"

    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        positions = np.arange(len(answer))
        return whole([positions >= i for i in positions], [(positions == i) & answer for i in positions], prompt)
