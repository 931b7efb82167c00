"""Where the teeth of a comb are worth their network evaluations.

S steps, of which the last has no teeth. A tooth at step t is finished in c_t = S - 1 - t evaluations.
"""

from collections.abc import Mapping

import numpy as np

PAIR = 2
"""A lone tooth has nothing to compare with."""


def cost(teeth: Mapping[int, int], steps: int) -> int:
    """Network evaluations of one start with so many teeth by step: its spine, and what finishes the teeth."""
    return max(teeth) + 1 + sum(count * (steps - 1 - step) for step, count in teeth.items())


def wanted(deviation: np.ndarray, floor: float) -> np.ndarray:
    """[S - 1]: teeth by step, over those of the step with the most, for the deviations sigma_t [S - 1].

    sigma_t / sqrt(c_t), since the variance sum_t sigma_t^2 / n_t for a cost of sum_t n_t c_t is least there (Neyman 1934). A
    step whose deviation is not known (NaN) counts as much as the largest that is; without any all steps are equal.
    """
    if not np.nanmax(deviation, initial=0.0) > 0.0:
        return np.ones(len(deviation))
    costs = np.arange(len(deviation), 0, -1)
    worth = np.where(np.isnan(deviation), np.nanmax(deviation), deviation) / np.sqrt(costs)
    return np.maximum(worth / worth.max(), floor)


def allocated(budget: int, means: np.ndarray, rng: np.random.Generator) -> list[Mapping[int, int]]:
    """For each start its teeth by step, `means` [S - 1] of them on average, for exactly `budget` network evaluations.

    The first start has teeth at the last step too: one of these costs one evaluation, so that nothing is left over.
    """
    steps = len(means) + 1
    first = _rounded(means, rng)
    starts = [first | {steps - 2: max(PAIR, first.get(steps - 2, 0))}]
    left = budget - cost(starts[0], steps)
    while cost(following := _rounded(means, rng), steps) <= left:
        starts.append(following)
        left -= cost(following, steps)
    while left:
        affordable = [(means[t], -n, i, t) for i, teeth in enumerate(starts) for t, n in teeth.items() if steps - 1 - t <= left]
        _, _, i, step = max(affordable)
        starts[i][step] += 1
        left -= steps - 1 - step
    return list(starts)


def _rounded(means: np.ndarray, rng: np.random.Generator) -> dict[int, int]:
    """Whole numbers with these means, none of them 1; steps without teeth are left out."""
    draws = rng.random(len(means))
    pairs = np.where(draws < means / PAIR, PAIR, 0)
    counts = np.where(means < PAIR, pairs, np.floor(means + draws)).astype(int)
    return {step: int(count) for step, count in enumerate(counts) if count}
