"""Two complementary masks beside the full one (coupled-GRPO of DiffuCoder, arXiv 2506.20639)."""

import numpy as np
from pydantic import Field

from flowgrpo.sampling.likelihood import Likelihood, Masks, complementary, whole


class Coupled(Likelihood):
    """r ~ U(low, high), m = {i: u_i < r}: log p_i = (l_i(all masked) + l_i(m masked) / r or l_i(rest masked) / (1 - r)) / 2.

    A surrogate: a position's expected weights add up to 3/2, not 1.
    """

    low: float = Field(default=0.2, gt=0.0, lt=1.0)
    high: float = Field(default=0.8, gt=0.0, lt=1.0)

    @property
    def states(self) -> int:
        return 3

    def complaint(self, length: int) -> str | None:
        return None if self.low <= self.high else f"likelihood.low = {self.low} must not be above likelihood.high = {self.high}"

    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        share = rng.uniform(self.low, self.high)
        first, rest = complementary(rng.random(len(answer)) < share, answer)
        everything = np.ones(len(answer), bool)
        return whole([everything, first, rest], [answer / 2.0, first / share / 2.0, rest / (1.0 - share) / 2.0], prompt)
