"""Advantages: credit made comparable within a group."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flowgrpo.objective import AdvantageConfig

MIN_SPREAD = 1e-9


def advantages(
    credit: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    group: np.ndarray,
    step: np.ndarray,
    config: AdvantageConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """(advantage [C], kept [C]) for C trained transitions of the whole update.

    `credit` holds one [C] array per reward, `group` and `step` say where each transition belongs. `kept` is False
    for transitions of groups without variance when those are dropped; dropped ones do not enter any statistic.
    """
    total = _sum(credit, weights)
    kept = _varies(total, group) if config.zero_variance == "drop" else np.ones(len(total), bool)
    out = np.zeros(len(total))
    if not kept.any():
        return out, kept
    if config.aggregate == "rewards":
        credit, weights = {"total": total}, {"total": 1.0}
    normalised = {k: _normalise(v[kept], group[kept], step[kept], config) for k, v in credit.items()}
    out[kept] = _sum(normalised, weights)
    return (np.clip(out, -config.clip, config.clip) if config.clip else out), kept


def zero_variance_groups(credit: Mapping[str, np.ndarray], weights: Mapping[str, float], group: np.ndarray) -> float:
    """The share of groups whose weighted credit is constant: they teach nothing."""
    varies = _varies(_sum(credit, weights), group)
    return float(np.mean([not varies[group == g].any() for g in np.unique(group)]))


def _sum(values: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    return np.sum([weights[k] * v for k, v in values.items()], axis=0)


def _varies(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    out = np.zeros(len(values), bool)
    for g in np.unique(group):
        rows = group == g
        out[rows] = np.ptp(values[rows]) > MIN_SPREAD
    return out


def _normalise(values: np.ndarray, group: np.ndarray, step: np.ndarray, config: AdvantageConfig) -> np.ndarray:
    centred = values - _per(config.mean, values, group, step, np.mean)
    if config.std == "none":
        return centred
    spread = _per(config.std, values, group, step, lambda x: np.std(x, ddof=min(config.ddof, len(x) - 1)))
    return centred / np.maximum(spread + config.eps, config.floor)


def _per(
    scope: str, values: np.ndarray, group: np.ndarray, step: np.ndarray, statistic: Callable[[np.ndarray], Any]
) -> np.ndarray:
    """A statistic of the values over each set of transitions that share a key, spread back over them."""
    columns = {"group": [group], "group_step": [group, step], "global": [np.zeros_like(group)]}[scope]
    _, inverse = np.unique(np.stack(columns), axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    out = np.empty(len(values))
    for key in range(inverse.max() + 1):
        rows = inverse == key
        out[rows] = statistic(values[rows])
    return out
