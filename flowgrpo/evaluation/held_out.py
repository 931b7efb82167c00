"""Held-out evaluation: the model's own sampler, fixed prompts and seeds, before and after."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from flowgrpo.config.run import EvaluationConfig
from flowgrpo.core.intervals import mean_interval
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.core.rounding import gains
from flowgrpo.data.prompts import Prompt, batches
from flowgrpo.data.samples import Shown, spread
from flowgrpo.policies.protocol import Sampler
from flowgrpo.runs.folder import HeldOut
from flowgrpo.scoring.scorer import Scorer


def evaluate(
    policy: Sampler,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    config: EvaluationConfig,
    processes: Processes,
    pictures: int,
    batch_key: Callable[[Prompt], Hashable],
) -> HeldOut:
    """One sample per prompt, seed `config.seed + row in the file`, scored alone; `pictures` of them are kept to look at.

    `batch_key` says which prompts may share a batch (`PolicyConfig`).
    """
    seeds = [config.seed + prompt.index for prompt in prompts]
    shown = set(spread(range(len(prompts)), pictures))
    mine: list[tuple[list[int], dict[str, np.ndarray], dict[int, Shown]]] = []
    for rows in bar(processes.share(batches(prompts, config.batch, batch_key)), "evaluate", processes.is_main):
        samples = policy.generate([prompts[row] for row in rows], [seeds[row] for row in rows], config.steps)
        kept = {row: samples[i : i + 1].shown()[0] for i, row in enumerate(rows) if row in shown}
        mine.append((rows, scorer.alone(samples), kept))
    parts = processes.gather(mine)
    order = np.argsort([row for rows, _, _ in parts for row in rows])
    scores = {label: np.concatenate([found[label] for _, found, _ in parts])[order] for label in parts[0][1]}
    pictured = {row: sample for _, _, kept in parts for row, sample in kept.items()}
    return HeldOut(list(prompts), seeds, scores, dict(sorted(pictured.items())))


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
