"""Sudoku of 4x4: is the answer a legal grid that keeps the givens? Rules decide, no stored answer.

Judged are the digits of the last answer block, or of all the text; an answer that hasn't 16 digits or changes a given is 0.
"""

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
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


def _peers(cell: int) -> list[int]:
    """The 7 other cells in the row, column and 2x2 box of a cell."""
    places = [(i // 4, i % 4, i // 8 * 2 + i % 4 // 2) for i in range(16)]
    return [i for i in range(16) if i != cell and any(a == b for a, b in zip(places[i], places[cell], strict=True))]


PEERS = [_peers(cell) for cell in range(16)]


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
    fills = len(grid) == 16 and all(given in ("0", digit) for given, digit in zip(puzzle, grid, strict=True))
    return [fills and fits(grid, cell) for cell in blanks]


def fits(grid: str, cell: int) -> bool:
    return grid[cell] in "1234" and all(grid[peer] != grid[cell] for peer in PEERS[cell])


def _puzzle(row: dict[str, Any]) -> str:
    puzzle = stated(row, "puzzle", PUZZLE)
    if not isinstance(puzzle, str) or not re.fullmatch("[0-4]{16}", puzzle) or "0" not in puzzle:
        raise bad_row(row, "puzzle", PUZZLE)
    return puzzle


@lru_cache(maxsize=1)
def grids() -> tuple[str, ...]:
    """The 288 solution grids in order; split these, and no grid is in two splits."""
    found = [""]
    for cell in range(16):
        earlier = [peer for peer in PEERS[cell] if peer < cell]
        found = [grid + digit for grid in found for digit in "1234" if all(grid[peer] != digit for peer in earlier)]
    return tuple(found)


def generate(rng: np.random.Generator, blanks: int, among: Sequence[str] | None = None) -> dict[str, str]:
    """A metadata row: one of the grids (all 288, or those `among`) with `blanks` cells taken out, so it has a solution."""
    if not 1 <= blanks <= 16:
        raise UserError(f"a 4x4 sudoku has 1 to 16 blanks, not {blanks}")
    choices = grids() if among is None else among
    grid = list(choices[int(rng.integers(len(choices)))])
    for cell in rng.choice(16, size=blanks, replace=False):
        grid[cell] = "0"
    return {"puzzle": "".join(grid)}
