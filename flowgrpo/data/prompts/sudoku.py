"""Sudoku of 4x4 with 4, 6, 8 and 10 blanks, as `{"prompt": ..., "puzzle": "1034...", "blanks": 4}`; 0 is a blank.

There are only 288 solved grids: one in five is kept for the benchmark and the split `test`, and none of these solves a puzzle of
the split `train`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts._rows import Row, distinct

EACH = 64
BLANKS = (4, 6, 8, 10)


def _peers(cell: int) -> list[int]:
    """The 7 other cells in the row, column and 2x2 box of a cell."""
    units = [(i // 4, i % 4, i // 8 * 2 + i % 4 // 2) for i in range(16)]
    return [i for i in range(16) if i != cell and any(a == b for a, b in zip(units[i], units[cell], strict=True))]


PEERS = [_peers(cell) for cell in range(16)]


@cache
def grids() -> tuple[str, ...]:
    """The 288 solution grids in order; split these, and no grid is in two splits."""
    grids = [""]
    for cell in range(16):
        earlier = [peer for peer in PEERS[cell] if peer < cell]
        grids = [grid + digit for grid in grids for digit in "1234" if all(grid[peer] != digit for peer in earlier)]
    return tuple(grids)


HELD_OUT = grids()[::5]
TRAINED = tuple(grid for grid in grids() if grid not in HELD_OUT)


def rows(split: str = "train", count: int = 1000, seed: int = 0, blanks: int | None = None) -> list[Row]:
    """`blanks` is how many all puzzles have; None mixes 4, 6, 8 and 10."""
    rng, taken = numpy_generator(("sudoku", split, seed)), _taken()

    def fits(row: Row) -> bool:
        return row["puzzle"] not in taken and (split == "test" or not any(solves(grid, row["puzzle"]) for grid in HELD_OUT))

    among = HELD_OUT if split == "test" else TRAINED
    return distinct(lambda: _asked(rng, int(rng.choice(BLANKS)) if blanks is None else blanks, among), count, fits)


def benchmark() -> list[Row]:
    """Always the same."""
    return [row for blanks in BLANKS for row in _with_blanks(blanks)]


@cache
def _taken() -> frozenset[str]:
    return frozenset(row["puzzle"] for row in benchmark())


def _with_blanks(blanks: int) -> list[Row]:
    rng = numpy_generator(("sudoku", blanks))
    return distinct(lambda: _asked(rng, blanks, HELD_OUT), EACH)


def _asked(rng: np.random.Generator, blanks: int, among: Sequence[str]) -> Row:
    row = generate(rng, blanks, among)
    return {"prompt": prompt(row["puzzle"]), **row, "blanks": blanks}


def generate(rng: np.random.Generator, blanks: int, among: Sequence[str] | None = None) -> dict[str, Any]:
    """A metadata row: one of the grids (all 288, or those `among`) with `blanks` cells taken out, so it has a solution."""
    if not 1 <= blanks <= 16:
        raise UserError(f"a 4x4 sudoku has 1 to 16 blanks, not {blanks}")
    choices = grids() if among is None else among
    grid = list(choices[int(rng.integers(len(choices)))])
    for cell in rng.choice(16, size=blanks, replace=False):
        grid[cell] = "0"
    return {"puzzle": "".join(grid)}


def solves(grid: str, puzzle: str) -> bool:
    return all(given in ("0", digit) for given, digit in zip(puzzle, grid, strict=True))


def prompt(puzzle: str) -> str:
    lines = "\n".join(puzzle[start : start + 4] for start in range(0, 16, 4))
    return (
        "Solve this sudoku of 4x4. Put a digit from 1 to 4 for every 0, so that each row, each column and each 2x2 box holds all "
        f"four.\n{lines}\nGive the solved grid as four lines of four digits between <answer> and </answer>."
    )
