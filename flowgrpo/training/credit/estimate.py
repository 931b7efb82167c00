"""From inner products of gradients to how far a scheme's updates go the right way, with intervals.

S schemes, J groups of prompts in all of their updates together, R resamples. h_j is the gradient of group j times the groups n of
its optimizer step, so that a step is the mean of n of them; m_s = E h is scheme s's mean, q_s = E|step|^2, e_s what a step costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import Interval, percentiles
from flowgrpo.core.keys import numpy_generator
from flowgrpo.training.credit.gradients import Gradients

RESAMPLES = 1000
FLOOR = 1e-12
"""Of the noise of the noisiest scheme: nothing is without any."""
CLEAR = 1.96
"""Standard errors from 0 to the end of an interval."""


@dataclass(frozen=True)
class Products:
    """`gram` [J, J]: h_i . h_j. `scheme`, `prompt`, `fold` and `step` are numbers [J], groups of a scheme one after the other.
    `groups` and `cost` are [S]: n, and e_s in network evaluations. Groups of different folds are independent."""

    gram: np.ndarray
    scheme: np.ndarray
    prompt: np.ndarray
    fold: np.ndarray
    step: np.ndarray
    groups: np.ndarray
    cost: np.ndarray

    @property
    def schemes(self) -> int:
        return len(self.groups)

    @cached_property
    def steps(self) -> np.ndarray:
        """[S]: optimizer steps of each scheme."""
        return np.array([len(np.unique(self.step[self.scheme == s])) for s in range(self.schemes)])

    @cached_property
    def between(self) -> np.ndarray:
        """[J, J]: products of independent groups, 0 elsewhere."""
        return np.where(self.fold[:, None] == self.fold[None, :], 0.0, self.gram)

    @cached_property
    def within(self) -> list[np.ndarray]:
        """Of each scheme [J_s, J_s]: products of different groups of one step, NaN elsewhere."""
        found = []
        for rows in self.rows:
            same = (self.step[rows][:, None] == self.step[rows][None, :]) & ~np.eye(len(rows), dtype=bool)
            found.append(np.where(same, self.gram[np.ix_(rows, rows)], np.nan))
        return found

    @cached_property
    def rows(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.scheme == s) for s in range(self.schemes)]


@dataclass(frozen=True)
class Moments:
    """`means` [S, S]: m_s . m_t, without bias, since a group is only multiplied with those of other folds. `size` [S]: q_s."""

    means: np.ndarray
    size: np.ndarray


def moments(products: Products, weight: np.ndarray) -> Moments:
    """Of groups that count `weight` [J] times. NaN for a scheme without a pair, which a small resample may have."""
    chosen = np.zeros((products.schemes, len(weight)))
    chosen[products.scheme, np.arange(len(weight))] = weight
    per_fold = np.stack([np.bincount(products.fold, row, products.fold.max() + 1) for row in chosen])
    pairs = np.outer(chosen.sum(1), chosen.sum(1)) - per_fold @ per_fold.T
    with np.errstate(invalid="ignore", divide="ignore"):
        means = chosen @ products.between @ chosen.T / pairs
        size = np.array([_size(products, s, weight[products.rows[s]]) for s in range(products.schemes)])
    return Moments(means, size)


def _size(products: Products, s: int, weight: np.ndarray) -> float:
    """E|step|^2 = E|h|^2 / n + (1 - 1/n) E h_i . h_j of two groups of a step."""
    rows, n = products.rows[s], products.groups[s]
    alone = weight @ products.gram[rows, rows] / weight.sum()
    if n == 1:
        return alone
    pairs = np.where(np.isnan(products.within[s]), 0.0, np.outer(weight, weight))
    total = pairs.sum()
    together = float((pairs * np.nan_to_num(products.within[s])).sum() / total) if total else 0.0
    return alone / n + (1.0 - 1.0 / n) * together


def reliability(products: Products, found: Moments) -> np.ndarray:
    """[S] weights |m_s| / var_s of the schemes' mean gradients in the reference, var_s = (q_s - |m_s|^2) / steps: those of the
    best estimate of one direction that all of them point along. A scheme without a signal has weight 0; where none has one, the
    weights are 1 / var_s."""
    signal = np.maximum(np.diag(found.means), 0.0)
    noise = np.maximum(found.size - signal, FLOOR * found.size.max()) / products.steps
    return (np.sqrt(signal) if signal.any() else np.ones(len(signal))) / noise


@dataclass(frozen=True)
class Figures:
    """[S] each. `cosine` of a step with the reference at equal evaluations E, signed; `error`: |step - m| / |m| there.

    cosine^2 = (m . u)^2 / (|m|^2 + (q - |m|^2) e / E): u is the reference, of length 1. `agreement`: the cosine of m with u.
    """

    cosine: np.ndarray
    error: np.ndarray
    agreement: np.ndarray

    @property
    def squared(self) -> np.ndarray:
        """[S]: negative where a step goes against the reference."""
        return np.sign(self.cosine) * self.cosine**2


def figures(products: Products, found: Moments, reference: np.ndarray, evaluations: float) -> Figures:
    """`reference` [S] weights of the schemes' means."""
    along, length = found.means @ reference, reference @ found.means @ reference
    own = np.diag(found.means)
    noise = np.maximum(found.size - own, 0.0) * products.cost / evaluations
    with np.errstate(invalid="ignore", divide="ignore"):
        towards = along / np.sqrt(length) if length > 0 else np.zeros_like(along)
        cosine = np.clip(np.nan_to_num(towards / np.sqrt(np.maximum(own, 0.0) + noise)), -1.0, 1.0)
        error = np.where(own > 0, np.sqrt(noise / np.where(own > 0, own, 1.0)), np.inf)
        agreement = np.where(own > 0, towards / np.sqrt(np.where(own > 0, own, 1.0)), np.nan)
    return Figures(cosine, error, agreement)


@dataclass(frozen=True)
class Resampled:
    """The figures, and those of R resamples of the prompts, the same for every scheme: `squared` and `cosine` [R, S]."""

    figures: Figures
    squared: np.ndarray
    cosine: np.ndarray
    error: np.ndarray

    def ratio(self, s: int, baseline: int) -> tuple[float, Interval]:
        """Of cosine^2, scheme over baseline: how many of the baseline's evaluations one of the scheme's is worth."""
        if s == baseline:
            return 1.0, (1.0, 1.0)
        draws = ratio(self.squared[:, s], self.squared[:, baseline])
        return float(ratio(self.figures.squared[s], self.figures.squared[baseline])), percentiles_of(draws)


def ratio(above: np.ndarray | float, below: np.ndarray | float) -> np.ndarray:
    """Without a limit where the lower one has no signal."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.where(above > 0, np.inf, np.nan))


def percentiles_of(draws: np.ndarray) -> Interval:
    """An interval of draws that may be infinite. Those that are no numbers, nothing over nothing, may be any: they lie below its
    low end, and above its high end."""
    if np.isfinite(draws).all():
        return percentiles(draws)
    low, high = (np.sort(np.where(np.isnan(draws), any_, draws)) for any_ in (-np.inf, np.inf))
    ends = (round(q * (len(draws) - 1)) for q in (0.025, 0.975))
    return float(low[next(ends)]), float(high[next(ends)])


def resampled(products: Products, reference: np.ndarray, evaluations: float, seed: int) -> Resampled:
    """Bootstrap over prompts: all groups of a prompt, of all schemes, are in a resample as often as the prompt is."""
    numbers, place = np.unique(products.prompt, return_inverse=True)
    rng = numpy_generator((seed, "credit", "bootstrap"))
    counts = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), RESAMPLES)
    drawn = [figures(products, moments(products, row[place].astype(float)), reference, evaluations) for row in counts]
    point = figures(products, moments(products, np.ones(len(place))), reference, evaluations)
    return Resampled(point, *(np.stack([getattr(one, name) for one in drawn]) for name in ("squared", "cosine", "error")))


def needed(draws: np.ndarray) -> float:
    """How many times as many updates would tell the number with these bootstrapped draws from 0, if it is what it seems to be."""
    seen, error = float(draws.mean()), float(draws.std())
    return (CLEAR * error / seen) ** 2 if seen else float("inf")


def products_of(schemes: Sequence[Gradients]) -> Products:
    """Errors: UserError where nothing has a gradient."""
    vectors = torch.stack([vector for scheme in schemes for vector in scheme.vectors])
    scale = float(vectors.norm(dim=1).max())
    if not scale:
        raise UserError(
            "no scheme has a gradient: the rewards of every group are equal; take more noise, larger groups or a finer reward"
        )
    vectors /= scale
    joined = {name: np.array([x for scheme in schemes for x in vars(scheme)[name]]) for name in ("prompt", "fold", "step")}
    return Products(
        (vectors @ vectors.T).double().numpy(),
        np.repeat(np.arange(len(schemes)), [len(scheme.vectors) for scheme in schemes]),
        **joined,
        groups=np.array([scheme.groups for scheme in schemes]),
        cost=np.array([scheme.evaluations / scheme.steps for scheme in schemes]),
    )
