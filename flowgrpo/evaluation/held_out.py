"""Held-out scores before and after training, and what was gained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowgrpo.core.intervals import mean_interval
from flowgrpo.core.rounding import gains
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.records import Record


def scores_by_label(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """[N] of N records, all with the same rewards."""
    return {label: np.array([record.scores[label] for record in records]) for label in records[0].scores}


def compare(prompts: Sequence[Prompt], old: np.ndarray, new: np.ndarray, metric: str) -> dict[str, Any]:
    """What `held_out.json` holds of scores [N] before and after; `ci95` is the interval of the gain."""
    return {
        "metric": metric,
        "before": float(old.mean()),
        "after": float(new.mean()),
        "ci95": list(mean_interval(gains(new, old))),
        "n": len(old),
        "by_tag": _by_tag(prompts, old, new),
    }


def _by_tag(prompts: Sequence[Prompt], old: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    tags = np.array([str(prompt.metadata.get("tag", "")) for prompt in prompts])
    return {
        tag: {"before": float(old[tags == tag].mean()), "after": float(new[tags == tag].mean()), "n": int((tags == tag).sum())}
        for tag in sorted(set(tags) - {""})
    }
