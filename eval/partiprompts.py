"""PartiPrompts (P2; Parti, arXiv 2206.10789): 1632 prompts in 12 categories, each with a challenge.

The file is PartiPrompts.tsv of google-research/parti, with the columns `Prompt`, `Category`, `Challenge` and `Note`; its count is
checked, no checksum is known. The authors asked people; this reports the means of reward models, and of the metric by category
and by challenge.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._official import official, prompts, table
from flowgrpo.eval._preferences import PREFERENCES
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get PartiPrompts.tsv from https://github.com/google-research/parti, or give hf:nateraw/parti-prompts/PartiPrompts.tsv"
COLUMNS = ("Prompt", "Category", "Challenge", "Note")
METRIC = "pickscore"


class Tabs(csv.excel_tab):
    """Quotation marks are part of the prompts."""

    quoting = csv.QUOTE_NONE


def load(path: Path | str | None, count: int | None = 1632) -> list[Prompt]:
    file = official(path, count, None, HINT)
    return prompts([{name.lower(): row[name] for name in COLUMNS} for row in table(file, COLUMNS, Tabs)], count, file)


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("category", asked, scores, METRIC) | means_by("challenge", asked, scores, METRIC)


benchmark = Benchmark(
    summary="1632 prompts in 12 categories with 11 challenges, scored by models of human preference",
    source="Parti, arXiv 2206.10789",
    licence="prompts: Apache-2.0",
    load=load,
    rewards=PREFERENCES,
    metric=METRIC,
    figures=figures,
)
