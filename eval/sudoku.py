"""Sudoku of 4x4: 256 generated puzzles, always the same, with 4, 6, 8 and 10 blanks, of grids that are kept for it.

`solved` is the share of puzzles that are solved, `cells` of blank cells that are filled without a conflict. Train on the grids
that are not in `HELD_OUT`, and no answer has been seen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._own import distinct, fixed
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures
from flowgrpo.rewards.sudoku import generate, grids

EACH = 64
BLANKS = (4, 6, 8, 10)
HELD_OUT = grids()[::5]
METRIC = "solved"


def rows() -> list[dict[str, Any]]:
    return [row for blanks in BLANKS for row in _with_blanks(blanks)]


def _with_blanks(blanks: int) -> list[dict[str, Any]]:
    rng = numpy_generator(("sudoku", blanks))
    puzzles = distinct(lambda: generate(rng, blanks, HELD_OUT), EACH)
    return [{"prompt": prompt(row["puzzle"]), **row, "blanks": blanks} for row in puzzles]


def prompt(puzzle: str) -> str:
    lines = "\n".join(puzzle[start : start + 4] for start in range(0, 16, 4))
    return (
        "Solve this sudoku of 4x4. Put a digit from 1 to 4 for every 0, so that each row, each column and each 2x2 box holds all "
        f"four.\n{lines}\nGive the solved grid as four lines of four digits between <answer> and </answer>."
    )


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("blanks", asked, scores, METRIC)


benchmark = Benchmark(
    summary="256 sudoku puzzles of 4x4, as instructions for language models",
    source="flowgrpo",
    licence="Apache-2.0",
    load=fixed(rows),
    rewards={METRIC: RewardConfig(use="sudoku:solved"), "cells": RewardConfig(use="sudoku:cells")},
    metric=METRIC,
    figures=figures,
)
