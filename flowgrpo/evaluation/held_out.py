"""Held-out evaluation: the model's own sampler, fixed prompts and seeds, before and after."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowgrpo.config.run import EvaluationConfig
from flowgrpo.core.intervals import mean_interval
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.core.rounding import gains
from flowgrpo.data.prompts import Prompt
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
) -> HeldOut:
    """One sample per prompt, seed `config.seed + row in the file`, scored alone; `pictures` of them are kept to look at."""
    seeds = [config.seed + prompt.index for prompt in prompts]
    shown = set(spread(range(len(prompts)), pictures))
    starts = processes.share(range(0, len(prompts), config.batch))
    mine: list[tuple[int, dict[str, np.ndarray], dict[int, Shown]]] = []
    for start in bar(starts, "evaluate", processes.is_main):
        rows = slice(start, start + config.batch)
        samples = policy.generate(prompts[rows], seeds[rows], config.steps)
        kept = {start + i: samples[i : i + 1].shown()[0] for i in range(len(samples)) if start + i in shown}
        mine.append((start, scorer.alone(samples), kept))
    parts = sorted(processes.gather(mine), key=lambda part: part[0])
    scores = {label: np.concatenate([s[label] for _, s, _ in parts]) for label in parts[0][1]}
    return HeldOut(list(prompts), seeds, scores, {row: image for _, _, kept in parts for row, image in kept.items()})


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
