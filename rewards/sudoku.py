"""Sudoku of 4x4: is the answer a legal grid that keeps the givens? Rules decide, no stored answer.

Judged are the digits of the last answer block, or of all the text; an answer that hasn't 16 digits or changes a given is 0.
"""

import re
from functools import partial
from typing import Any

import numpy as np

from flowgrpo.data.prompts.sudoku import PEERS, solves
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import answer, bad_row, stated
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars

PUZZLE = "16 digits row by row, 1 to 4 or 0 for a blank, with at least one blank"


def _ladder() -> list[Samples]:
    return [exemplars([text], [{"puzzle": "1234341221434300"}]) for text in ("1234341221434312", "1234341221434321")]


judged = partial(
    card,
    reads="texts",
    range=(0.0, 1.0),
    licence="Apache-2.0",
    source="flowgrpo",
    row='{"puzzle": 16 digits row by row, 0 for a blank}',
    ladder=_ladder,
    check=lambda _, prompt: _puzzle(prompt.metadata),
)


@judged(better="1: a legal grid that keeps the givens, 0: not")
def solved(samples: Samples) -> list[float]:
    return [float(all(facts)) for facts in _all_facts(samples)]


@judged(better="more of the blank cells are filled without a conflict")
def cells(samples: Samples) -> list[float]:
    return [float(np.mean(facts)) for facts in _all_facts(samples)]


def _all_facts(samples: Samples) -> list[list[bool]]:
    return [facts(_puzzle(row), text) for text, row in zip(samples.texts, samples.metadata, strict=True)]


def facts(puzzle: str, text: str) -> list[bool]:
    """Of each blank cell: is it filled without a conflict? All False where the answer is no filling of the puzzle."""
    grid = "".join(re.findall("[0-9]", answer(text)))
    blanks = [cell for cell in range(16) if puzzle[cell] == "0"]
    fills = len(grid) == 16 and solves(grid, puzzle)
    return [fills and fits(grid, cell) for cell in blanks]


def fits(grid: str, cell: int) -> bool:
    return grid[cell] in "1234" and all(grid[peer] != grid[cell] for peer in PEERS[cell])


def _puzzle(row: dict[str, Any]) -> str:
    puzzle = stated(row, "puzzle", PUZZLE)
    if not isinstance(puzzle, str) or not re.fullmatch("[0-4]{16}", puzzle) or "0" not in puzzle:
        raise bad_row(row, "puzzle", PUZZLE)
    return puzzle
