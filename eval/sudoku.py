"""Sudoku of 4x4: 256 generated puzzles, always the same, with 4, 6, 8 and 10 blanks, of grids that are kept for it.

`solved` is the share of puzzles that are solved, `cells` of blank cells that are filled without a conflict. Train on the
prompts `sudoku:train`, and no answer has been seen.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.data.prompts import Prompt, sudoku
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._own import fixed
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

METRIC = "solved"


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("blanks", asked, scores, METRIC)


benchmark = Benchmark(
    summary="256 sudoku puzzles of 4x4, as instructions for language models",
    source="flowgrpo",
    licence="Apache-2.0",
    load=fixed(sudoku.benchmark),
    rewards={METRIC: RewardConfig(use="sudoku:solved"), "cells": RewardConfig(use="sudoku:cells")},
    metric=METRIC,
    figures=figures,
)
