"""DrawBench (Imagen, arXiv 2205.11487): 200 short prompts in 11 categories.

The file is the authors' sheet as CSV, with the columns `Prompts` and `Category`; its count is checked, no checksum is known.
The authors asked people which of two models is better. As later work does, this reports the means of reward models instead, and
of the metric by category.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._official import official, prompts, table
from flowgrpo.eval._preferences import PREFERENCES
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

SHEET = "https://docs.google.com/spreadsheets/d/1y7nAbmR4FREi6npB1u-Bo3GFdwdOPYJc617rBOxIRHY/gviz/tq?tqx=out:csv"
METRIC = "pickscore"


def load(path: Path | str | None, count: int | None = 200) -> list[Prompt]:
    file = official(path, count, None, f"save {SHEET} as drawbench.csv")
    rows = [{"prompt": row["Prompts"], "category": row["Category"]} for row in table(file, ("Prompts", "Category"))]
    return prompts(rows, count, file)


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("category", asked, scores, METRIC)


benchmark = Benchmark(
    summary="200 prompts in 11 categories, scored by models of human preference",
    source="Imagen, arXiv 2205.11487",
    licence="prompts: not stated",
    load=load,
    rewards=PREFERENCES,
    metric=METRIC,
    figures=figures,
)
