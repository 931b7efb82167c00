"""Advantages: credit made comparable within a group.

C trained transitions of a whole update; all arrays are [C]. A scope says which transitions are compared: a set of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.rounding import LEAST, rounding
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.baseline import Remembering
from flowgrpo.objective.memory import Memory, Record


@dataclass(frozen=True)
class Scopes:
    """Where each transition belongs, [C] each: its group (prompt), its start within the group, its step."""

    group: np.ndarray
    root: np.ndarray
    step: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Scopes":
        return Scopes(self.group[rows], self.root[rows], self.step[rows])

    def sets(self, scope: str) -> np.ndarray:
        """[C] numbers 0 ..: transitions with the same number are compared with each other."""
        columns = {
            "group": [self.group],
            "group_step": [self.group, self.step],
            "root": [self.group, self.root],
            "root_step": [self.group, self.root, self.step],
            "global": [np.zeros_like(self.group)],
        }[scope]
        _, inverse = np.unique(np.stack(columns), axis=1, return_inverse=True)
        return inverse.reshape(-1)


@dataclass(frozen=True)
class Stream:
    """Credit of one reward, [C] each: the advantage is scale x normalised(value) + offset.

    `rounding`, [C] or one number: how far apart values may be that are equal but for rounding.
    """

    value: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    rounding: np.ndarray | float = LEAST

    @classmethod
    def of(cls, value: np.ndarray) -> "Stream":
        return cls(value, np.ones(len(value)), np.zeros(len(value)), rounding(value[:, None], axis=1))

    @property
    def bound(self) -> np.ndarray:
        """[C]"""
        return np.broadcast_to(self.rounding, self.value.shape)


def advantages(
    credit: Mapping[str, Stream], weights: Mapping[str, float], scopes: Scopes, config: AdvantageConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(advantage [C], in_loss [C]): the streams' advantages, summed by weight.

    `in_loss` is False for transitions of sets without variance when those are dropped; dropped ones enter no statistic.
    """
    in_loss = np.ones(len(scopes.group), bool)
    if config.zero_variance == "drop":
        total = np.sum([weights[k] * stream.value for k, stream in credit.items()], axis=0)
        bound = np.sum([abs(weights[k]) * stream.bound for k, stream in credit.items()], axis=0)
        in_loss = _says_something(total, bound, scopes, config)
    advantage = np.zeros(len(in_loss))
    if not in_loss.any():
        return advantage, in_loss
    for label, stream in credit.items():
        normalised = _normalise(stream.value[in_loss], stream.bound[in_loss], scopes[in_loss], config)
        advantage[in_loss] += weights[label] * (stream.scale[in_loss] * normalised + stream.offset[in_loss])
    return _clipped(advantage, config), in_loss


def remembered(
    credit: Mapping[str, Stream],
    weights: Mapping[str, float],
    scopes: Scopes,
    prompts: Sequence[int],
    memory: Memory,
    config: AdvantageConfig,
    moved: Mapping[int, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, Memory]:
    """The same for a baseline that knows earlier updates, and what is known after this one. `prompts` [P] are the indices of the
    groups' prompts; `moved` says by index how far the policy has moved since they were visited, 0 where it says nothing."""
    advantage = np.zeros(len(scopes.group))
    for label, stream in credit.items():
        left, news = _against_the_past(stream, scopes.group, prompts, memory.of(label), moved or {}, config)
        memory = memory.with_news(label, news)
        advantage += weights[label] * (stream.scale * left + stream.offset)
    in_loss = np.ones(len(advantage), bool)
    if config.zero_variance == "drop":
        in_loss = _per(scopes.group, np.abs(advantage), np.max) > 0.0
    return _clipped(advantage, config), in_loss, memory


def expected(memory: Memory, config: AdvantageConfig) -> dict[int, float]:
    """What prompts are worth, in [0, 1], by index, as far as the baseline tracks it; of several rewards the mean."""
    baseline = config.baseline
    if not (isinstance(baseline, Remembering) and baseline.tracks_value):
        return {}
    shares: dict[int, list[float]] = {}
    with user_code(f"baseline '{baseline.type}'"):
        for rows in memory.records.values():
            for prompt, record in rows.items():
                shares.setdefault(prompt, []).append(baseline.expected(record))
    means = {prompt: sum(row) / len(row) for prompt, row in shares.items()}
    if wrong := next((mean for mean in means.values() if not 0.0 <= mean <= 1.0), None):
        raise UserError(f"baseline '{baseline.type}': expected must return a number in [0, 1], and returned {wrong:g}")
    return means


def _against_the_past(
    stream: Stream,
    groups: np.ndarray,
    prompts: Sequence[int],
    known: Mapping[int, Record],
    moved: Mapping[int, float],
    config: AdvantageConfig,
) -> tuple[np.ndarray, dict[int, Record]]:
    """([C] what the baseline leaves of the credit, records by prompt)."""
    baseline = config.baseline
    assert isinstance(baseline, Remembering)
    left, news = np.zeros(len(groups)), {}
    for group, prompt in enumerate(prompts):
        rows, before = groups == group, known.get(prompt)
        values, least = stream.value[rows], float(stream.bound[rows].max())
        left[rows], news[prompt] = baseline.against_the_past(
            values, before, least, config.ddof, partial(_scaled, config=config), moved.get(prompt, 0.0)
        )
    if config.std != "global":
        return left, news
    if np.ptp(left) <= stream.bound.max():
        return np.zeros(len(left)), news
    return _scaled(left - left.mean(), left.std(ddof=config.ddof), config), news


def _clipped(advantage: np.ndarray, config: AdvantageConfig) -> np.ndarray:
    return np.clip(advantage, -config.clip, config.clip) if config.clip else advantage


def _scaled(centred: np.ndarray, spread: np.ndarray | float, config: AdvantageConfig) -> np.ndarray:
    scale = np.broadcast_to(np.maximum(spread + config.eps, config.floor), centred.shape)
    return np.divide(centred, scale, out=np.zeros(len(centred)), where=scale > 0.0)


Company = Callable[[np.ndarray], np.ndarray]
"""A set's values -> those that they are compared with, themselves among them."""


def varies(values: np.ndarray, sets: np.ndarray, bound: np.ndarray, company: Company = np.asarray) -> np.ndarray:
    """[C]: whether the values of a set and its company differ by more than their rounding, `bound` [C]."""
    return _per(sets, values, lambda x: np.ptp(company(x))) > _per(sets, bound, np.max)


def _says_something(values: np.ndarray, bound: np.ndarray, scopes: Scopes, config: AdvantageConfig) -> np.ndarray:
    """[C]: whether a set holds values that differ, or values other than 0 where no mean is taken off."""
    if config.mean != "none":
        return varies(values, scopes.sets("group" if config.mean == "global" else config.mean), bound, config.baseline.company)
    sets = scopes.sets("group" if config.std in ("none", "global") else config.std)
    return _per(sets, np.abs(values), np.max) > _per(sets, bound, np.max)


def _normalise(values: np.ndarray, bound: np.ndarray, scopes: Scopes, config: AdvantageConfig) -> np.ndarray:
    """Values that are equal but for rounding have the deviation 0, and those that are compared with such ones only are 0."""
    baseline, centred, alike = config.baseline, values, np.ones(len(values), bool)
    if config.mean != "none":
        mean_sets = scopes.sets(config.mean)
        centred = values - _per(mean_sets, values, baseline.mean)
        alike = ~varies(values, mean_sets, bound, baseline.company)
    if config.std == "none":
        return centred
    std_sets = scopes.sets(config.std)
    spreading = values if config.std in ("global", config.mean) else centred
    company: Company = baseline.company if config.std == config.mean else np.asarray
    flat = ~varies(spreading, std_sets, bound, company)
    spread = _per(std_sets, spreading, lambda x: np.std(company(x), ddof=min(config.ddof, len(company(x)) - 1)))
    return _scaled(np.where(flat & alike, 0.0, centred), np.where(flat, 0.0, spread), config)


def _per(sets: np.ndarray, values: np.ndarray, statistic: Callable[[np.ndarray], Any]) -> np.ndarray:
    """A statistic of the values over each set, spread back over its members."""
    spread_back = np.empty(len(values))
    for key in range(sets.max() + 1):
        rows = sets == key
        spread_back[rows] = statistic(values[rows])
    return spread_back
