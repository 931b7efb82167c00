"""95 % intervals over seeds and prompts. S seeds, N held-out prompts, R resamples. scipy is slow to import, so it comes late."""

from functools import lru_cache

import numpy as np

from flowgrpo.core.keys import numpy_generator

Interval = tuple[float, float]
RESAMPLES = 10_000
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
    """Percentile bootstrap of the mean of values [N]. At most DRAWN values are drawn at once, or N."""
    from scipy import stats

    if len(values) == 1:
        return float(values[0]), float(values[0])
    rng, batch = numpy_generator(("bootstrap",)), max(1, DRAWN // len(values))
    bootstrapped = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, batch=batch, method="percentile", rng=rng)
    return float(bootstrapped.confidence_interval.low), float(bootstrapped.confidence_interval.high)


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p-value of "the paired differences [N] are as likely positive as negative" (Fisher's permutation test).

    All 2^N signs are tried where they are at most RESAMPLES; of more so many are drawn, and the observed ones count as one of
    the draws, so the p-value is never 0. Sums that differ by rounding alone are equal.
    """
    from scipy import stats

    if len(differences) == 1 or not differences.any():
        return 1.0
    shares = differences / np.abs(differences).sum()
    return float(
        stats.permutation_test(
            (shares,),
            lambda flipped, axis: np.abs(flipped.sum(axis)).round(9),
            permutation_type="samples",
            alternative="greater",
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, DRAWN // len(shares)),
            rng=numpy_generator(("sign flip",)),
        ).pvalue
    )


def t_interval(values: np.ndarray) -> Interval | None:
    """Student's interval of the mean of values [S]; one value has none."""
    from scipy import stats

    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)
