"""What a sheet's scores come to, reward by reward. N samples with a score."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowgrpo.core.intervals import mean_interval
from flowgrpo.core.version import VERSION
from flowgrpo.evaluation.sheet.lines import Line
from flowgrpo.evaluation.sheet.stream import Judge
from flowgrpo.scoring.card import Card


def summarise(lines: Sequence[Line], judge: Judge) -> dict[str, Any]:
    """What summary.json holds. What is not known, such as the mean of no scores or the end of an open range, is None.

    `seconds_per_sample` is of this run, and None for a reward that an earlier run has used on all samples.
    """
    rewards = {}
    for label, card in judge.cards.items():
        count = judge.judged[label]
        seconds = judge.seconds[label] / count if count else None
        failed = sum(label in line.errors for line in lines)
        rewards[label] = {**_figures(scores_of(lines, label)), "failed": failed, "seconds_per_sample": seconds, **_stated(card)}
    failed = sum(bool(line.errors) for line in lines)
    return {"samples": len(lines), "failed": failed, "rewards": rewards, "flowgrpo": VERSION}


def scores_of(lines: Sequence[Line], label: str) -> np.ndarray:
    """[N], of those that have one."""
    return np.array([line.scores[label] for line in lines if label in line.scores])


def _figures(values: np.ndarray) -> dict[str, Any]:
    """Of scores [N]."""
    if not len(values):
        return {"n": 0, "mean": None, "ci95": None, "min": None, "max": None}
    ends = {"min": float(values.min()), "max": float(values.max())}
    return {"n": len(values), "mean": float(values.mean()), "ci95": list(mean_interval(values)), **ends}


def _stated(card: Card) -> dict[str, Any]:
    ends = [end if math.isfinite(end) else None for end in card.range]
    return {"range": ends, "better": card.better, "licence": card.licence, "source": card.source}
