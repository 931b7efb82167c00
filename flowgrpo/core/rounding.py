"""When numbers are equal but for rounding: whatever divides by a spread asks this first, or noise becomes a signal."""

import numpy as np

FLOAT32 = 2.0**-23
TERMS = 256
SHARE = FLOAT32 * TERMS**0.5
"""1.9e-6. float32 resolves `FLOAT32` of a number, and a sum of `TERMS` terms of random order and sign errs by the root of that
many such steps. Scores come from networks, whose sums take another order with every size of a batch."""
LEAST = 1e-9
"""Of numbers around 0, such as the difference of two that are equal."""


def rounding(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """How far apart numbers may be that are equal but for rounding: `SHARE` of the largest of them, in absolute value, along an
    axis or of all. NaN is left out."""
    sizes = np.where(np.isnan(values), 0.0, np.abs(values))
    return np.maximum(LEAST, SHARE * sizes.max(axis=axis, initial=0.0))


def gains(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """new - old, and 0 where both are equal but for rounding."""
    gain = new - old
    return np.where(np.abs(gain) <= rounding(np.stack([new, old]), axis=0), 0.0, gain)


def sign(differences: np.ndarray, bound: np.ndarray | float) -> np.ndarray:
    """-1, 0 or 1 of differences of numbers whose `rounding` is `bound`."""
    return np.where(np.abs(differences) > bound, np.sign(differences), 0.0)
