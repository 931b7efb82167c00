"""The evidence lower bound by quadrature in time (GDPO, arXiv 2510.08554: semi-deterministic Monte Carlo)."""

import numpy as np
from pydantic import PositiveInt

from flowgrpo.sampling.likelihood import Level, Likelihood, Masks, whole


class Quadrature(Likelihood):
    """ELBO ~ sum over Gauss-Legendre nodes t_n on [0, 1] of w_n / t_n times the log-probs of the masked ids, one mask a node.

    Every id is masked with probability t_n. (Masking exactly round(t_n L) ids with the weight w_n / t_n, as a port does, is
    biased upwards.) GDPO takes the `sum`, which needs a small learning rate; the `mean` is the default here.
    """

    level: Level = "mean"
    nodes: PositiveInt = 3

    @property
    def states(self) -> int:
        return self.nodes

    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        x, w = np.polynomial.legendre.leggauss(self.nodes)
        times, shares = (x + 1.0) / 2.0, w / 2.0
        masked = [answer & (rng.random(len(answer)) < t) for t in times]
        return whole(masked, [share / t * m for share, t, m in zip(shares, times, masked, strict=True)], prompt)
