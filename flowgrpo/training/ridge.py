"""Ridge regression on running sums, whose predictions are judged by data that came after.

n rows, F features, K targets.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

PENALTY = 1.0
"""Rows that speak against each feature: lambda = PENALTY F for standardised features."""
MEMORY, RECENT = 0.97, 0.9
"""What an update leaves of the sums before it: of those that are fitted, and of those that judge."""
LEAST = 50.0
"""Degrees of freedom that a judgement needs."""
FLAT = 1e-6
"""A feature that varies by less than this share of the one that varies most is left out."""


@dataclass
class Ridge:
    """w = (D X'X D + lambda I)^-1 D X'Y, D = diag(X'X / n)^-1/2, of rows x that are centred already; y is about slope x D w.

    `slope` and `correlation` [K] are those of targets with predictions of rows that were not fitted yet, without a constant.
    """

    xx: np.ndarray
    xy: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.zeros(1))
    held: np.ndarray = field(default_factory=lambda: np.zeros(1))
    """Degrees of freedom of the predictions that were judged."""
    moments: np.ndarray = field(default_factory=lambda: np.zeros((3, 0)))
    """[3, K]: sums of predictions squared, of predictions times targets, of targets squared."""

    @classmethod
    def of(cls, features: int, targets: int) -> Self:
        return cls(np.zeros((features, features)), np.zeros((features, targets)), moments=np.zeros((3, targets)))

    def value(self, x: np.ndarray) -> np.ndarray:
        """[n, K] expected targets; 0 as long as too little is known."""
        return self.slope * self._prediction(x)

    def see(self, x: np.ndarray, y: np.ndarray, freedom: int) -> None:
        """Judge by rows x [n, F] and targets y [n, K], then fit them too; they have so many degrees of freedom."""
        if self.rows[0]:
            z = self._prediction(x)
            self.moments = RECENT * self.moments + np.stack([(z * z).sum(0), (z * y).sum(0), (y * y).sum(0)])
            self.held = RECENT * self.held + freedom
        self.xx, self.xy = MEMORY * self.xx + x.T @ x, MEMORY * self.xy + x.T @ y
        self.rows = MEMORY * self.rows + len(x)

    @property
    def known(self) -> bool:
        return bool(self.held[0] >= LEAST)

    @property
    def slope(self) -> np.ndarray:
        """[K], never below 0."""
        square, product, _ = self.moments
        return np.divide(np.maximum(product, 0.0), square, out=np.zeros(len(square)), where=self.known & (square > 0.0))

    @property
    def correlation(self) -> np.ndarray:
        """[K]"""
        square, product, target = self.moments
        scale = np.sqrt(square * target)
        return np.divide(product, scale, out=np.zeros(len(scale)), where=self.known & (scale > 0.0))

    def _prediction(self, x: np.ndarray) -> np.ndarray:
        square = np.diag(self.xx)
        used = square > FLAT**2 * square.max()
        if not used.any():
            return np.zeros((len(x), self.xy.shape[1]))
        scale = np.sqrt(self.rows[0] / square[used])
        gram = scale[:, None] * self.xx[np.ix_(used, used)] * scale
        penalty = PENALTY * len(gram) * np.eye(len(gram))
        return (x[:, used] * scale) @ np.linalg.solve(gram + penalty, scale[:, None] * self.xy[used])
