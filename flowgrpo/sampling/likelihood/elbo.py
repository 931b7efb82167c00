"""Monte-Carlo estimates of the evidence lower bound (LLaDA, arXiv 2502.09992; LLaDA 1.5 / VRPO, arXiv 2505.19223; ESPO)."""

from typing import Literal

import numpy as np
from pydantic import PositiveInt

from flowgrpo.sampling.likelihood import Level, Likelihood, Masks, complementary, pick, whole


class Elbo(Likelihood):
    """ELBO = E_t E_m [sum over masked i of log p(y_i | y without m) / t], n ids in the answer, K = `states_drawn`.

    `uniform`: t ~ U(0, 1), each id masked with probability t (huge variance); `count`: k ~ U{1 .. n} ids masked, weight n / k;
    `stratified`: the same with one k from each K-th of {1 .. n}; `antithetic`: k ~ U{0 .. n}, the mask and its complement,
    weights (n + 1) / k and (n + 1) / (n - k), halved. All are unbiased.
    """

    level: Level = "mean"
    draw: Literal["uniform", "count", "stratified", "antithetic"] = "stratified"
    states_drawn: PositiveInt = 3

    @property
    def states(self) -> int:
        return self.states_drawn * (2 if self.draw == "antithetic" else 1)

    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        pairs = [pair for k in range(self.states_drawn) for pair in self._draw(k, answer, rng)]
        masked, weights = zip(*pairs, strict=True)
        return whole(masked, [weight * mask / self.states_drawn for mask, weight in zip(masked, weights, strict=True)], prompt)

    def _draw(self, number: int, answer: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
        """[(mask, weight)] of one draw."""
        n = int(answer.sum())
        match self.draw:
            case "uniform":
                t = 1.0 - rng.random()
                return [(answer & (rng.random(len(answer)) < t), 1.0 / t)]
            case "antithetic":
                k = int(rng.integers(0, n + 1))
                first, rest = complementary(pick(k, answer, rng), answer)
                return [(first, (n + 1) / max(k, 1) / 2.0), (rest, (n + 1) / max(n - k, 1) / 2.0)]
            case "count":
                k = int(rng.integers(1, n + 1))
                return [(pick(k, answer, rng), n / k)]
        k = min(n, 1 + int(n * (number + rng.random()) / self.states_drawn))
        return [(pick(k, answer, rng), n / k)]
