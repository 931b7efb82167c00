"""95 % intervals over seeds and prompts. S seeds, N held-out prompts, R resamples."""

from functools import lru_cache

import numpy as np

from flowgrpo.core.keys import numpy_generator

Interval = tuple[float, float]
RESAMPLES = 10_000
ANGLES = 200_000
DRAWN = 1_000_000


def resampled_means(gains: np.ndarray, name: str) -> np.ndarray:
    """Hierarchical bootstrap: means [R] of gains [S, N] over seeds drawn with replacement, then over prompts likewise.

    The prompts are the same for every seed and every `name`, the seeds are drawn anew for each `name`. So the difference
    of two results is the bootstrap of a difference on the same prompts.
    """
    seeds, prompts = gains.shape
    drawn = numpy_generator(("compare", "seeds", name)).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    return np.einsum("rn,rn->r", drawn @ gains / seeds, _prompt_shares(prompts))


@lru_cache(maxsize=1)
def _prompt_shares(prompts: int) -> np.ndarray:
    """[R, N]: the share of each prompt in each resample; rows sum to 1."""
    draw = numpy_generator(("compare", "prompts")).multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES)
    return draw / prompts


def percentiles(means: np.ndarray) -> Interval:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(values: np.ndarray) -> Interval:
    """Bootstrap: of the mean of values [N]. At most DRAWN values are drawn at once, or N."""
    rng, size = numpy_generator(("bootstrap",)), len(values)
    block = max(1, DRAWN // size)
    counts = (min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block))
    return percentiles(np.concatenate([values[rng.integers(0, size, (count, size))].mean(1) for count in counts]))


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p-value of "the paired differences [N] are as likely positive as negative" (Fisher's permutation test).

    Signs are flipped at random RESAMPLES times; the observed signs count as one of the draws, so the p-value is never 0.
    """
    rng = numpy_generator(("sign flip",))
    flipped = np.array([differences @ rng.choice((-1.0, 1.0), len(differences)) for _ in range(RESAMPLES)])
    as_far = np.abs(flipped) >= abs(differences.sum()) - 1e-9 * np.abs(differences).sum()
    return float((1 + as_far.sum()) / (1 + RESAMPLES))


def t_interval(values: np.ndarray) -> Interval | None:
    """Student's interval of the mean of values [S]; one value has none."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def t_quantile(freedom: int) -> float:
    """97.5 % point of Student's t, by its angle: with t = sqrt(freedom) tan(a), the density of a is ~ cos(a)^(freedom - 1)."""
    middles = (np.arange(ANGLES) + 0.5) * np.pi / ANGLES - np.pi / 2
    mass = np.cumsum(np.cos(middles) ** (freedom - 1))
    angle = np.interp(0.975 * mass[-1], mass, middles + np.pi / (2 * ANGLES))
    return float(np.sqrt(freedom) * np.tan(angle))
