"""What the scores of models say: figures, means with intervals, and paired tests on the same prompts and seeds.

P prompts, K samples per prompt, N = P K samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import Interval, mean_interval, sign_flip_p
from flowgrpo.core.rounding import gains
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.records import Record
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

LEVEL = 0.05


@dataclass(frozen=True)
class Result:
    """Of one model: the metric's mean over `prompts` prompts, first averaged over the samples of a prompt, and all figures.

    Samples on which a reward `failed` (their number by label) count in none of them.
    """

    name: str
    mean: float
    ci95: Interval
    prompts: int
    samples: int
    failed: dict[str, int]
    figures: Figures


@dataclass(frozen=True)
class Difference:
    """A checkpoint minus the base model in the scores of one reward, over prompts both have scores of."""

    checkpoint: str
    reward: str
    mean: float
    ci95: Interval
    p: float
    prompts: int
    better: int
    worse: int

    @property
    def word(self) -> str:
        if self.p >= LEVEL:
            return "no difference shown"
        return "better" if self.mean > 0 else "worse"


def result(name: str, benchmark: Benchmark, prompts: Sequence[Prompt], records: Sequence[Record]) -> Result:
    whole = [record for record in records if not record.errors]
    means = _known(prompt_means(score_table(prompts, whole, benchmark.metric, benchmark.samples_per_prompt)))
    asked = {prompt.index: prompt for prompt in prompts}
    scores = {label: np.array([record.scores[label] for record in whole]) for label in benchmark.rewards}
    failed = {label: sum(label in record.errors for record in records) for label in benchmark.rewards}
    return Result(
        name=name,
        mean=float(means.mean()),
        ci95=mean_interval(means),
        prompts=len(means),
        samples=len(whole),
        failed={label: count for label, count in failed.items() if count},
        figures=benchmark.figures([asked[record.row] for record in whole], scores),
    )


def difference(name: str, label: str, gains: np.ndarray) -> Difference:
    """`gains` [P] as of `prompt_gains`, NaN where not known."""
    known = _known(gains)
    return Difference(
        checkpoint=name,
        reward=label,
        mean=float(known.mean()),
        ci95=mean_interval(known),
        p=sign_flip_p(known),
        prompts=len(known),
        better=int((known > 0).sum()),
        worse=int((known < 0).sum()),
    )


def prompt_gains(
    prompts: Sequence[Prompt], samples: int, label: str, base: Sequence[Record], records: Sequence[Record]
) -> np.ndarray:
    """[P]: `records` minus `base`, over the samples of a prompt that both have scores of; 0 where they are equal but for
    rounding."""
    old, new = (score_table(prompts, found, label, samples) for found in (base, records))
    return prompt_means(gains(new, old))


def score_table(prompts: Sequence[Prompt], records: Sequence[Record], label: str, samples: int) -> np.ndarray:
    """[P, K]; NaN where the reward failed."""
    rows = {prompt.index: place for place, prompt in enumerate(prompts)}
    table = np.full((len(prompts), samples), np.nan)
    for record in records:
        table[rows[record.row], record.sample] = record.scores.get(label, np.nan)
    return table


def prompt_means(table: np.ndarray) -> np.ndarray:
    """[P] of [P, K]: means over the samples that have a score; NaN for a prompt without."""
    scored = ~np.isnan(table)
    counts = scored.sum(1)
    return np.where(counts, np.where(scored, table, 0.0).sum(1) / np.maximum(counts, 1), np.nan)


def _known(values: np.ndarray) -> np.ndarray:
    known = values[~np.isnan(values)]
    if not len(known):
        raise UserError("on every sample some reward failed; scores.jsonl says why")
    return known
