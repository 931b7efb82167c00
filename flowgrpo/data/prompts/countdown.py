"""Countdown: reach a target with each of three or four numbers once, as
`{"prompt": ..., "numbers": [1, 98, 82], "target": 17, "size": 3}`. All can be solved.

Splits are by the numbers, whatever their order, and the target; no problem of the benchmark is in either.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts._rows import Row, distinct, held_out

EACH = 256
SIZES = (3, 4)
NUMBERS, TARGETS = (1, 100), (1, 1000)
"""From the first, below the second."""


def rows(split: str = "train", count: int = 1000, seed: int = 0, size: int | None = None) -> list[Row]:
    """`size` is how many numbers all problems have; None mixes three and four."""
    if size not in (None, *SIZES):
        raise UserError(f"a problem has {SIZES[0]} or {SIZES[1]} numbers, not size={size}")
    rng, taken = numpy_generator(("countdown", split, seed)), _taken()

    def fits(row: Row) -> bool:
        known = content(row)
        return known not in taken and held_out("countdown", known) == (split == "test")

    return distinct(lambda: _problem(rng, size or int(rng.choice(SIZES))), count, fits)


def benchmark() -> list[Row]:
    """Always the same."""
    return [row for size in SIZES for row in _of_size(size)]


def content(row: Row) -> str:
    return f"{sorted(row['numbers'])} {row['target']}"


@cache
def _taken() -> frozenset[str]:
    return frozenset(content(row) for row in benchmark())


def _of_size(size: int) -> list[Row]:
    rng = numpy_generator(("countdown", size))
    return distinct(lambda: _problem(rng, size), EACH)


def _problem(rng: np.random.Generator, size: int) -> Row:
    """Numbers, and a target that some way to join them reaches."""
    while True:
        numbers = rng.integers(*NUMBERS, size).tolist()
        target = _joined(rng, [Fraction(number) for number in numbers])
        if target.denominator == 1 and TARGETS[0] <= target < TARGETS[1]:
            return {"prompt": prompt(numbers, int(target)), "numbers": numbers, "target": int(target), "size": size}


def _joined(rng: np.random.Generator, numbers: list[Fraction]) -> Fraction:
    """Two neighbours after two become one, by an operator drawn at random; nothing is divided by zero."""
    while len(numbers) > 1:
        i, operator = int(rng.integers(len(numbers) - 1)), int(rng.integers(4))
        a, b = numbers[i : i + 2]
        numbers[i : i + 2] = [(a + b, a - b, a * b, a / (b or 1))[operator]]
    return numbers[0]


def prompt(numbers: Sequence[int], target: int) -> str:
    return (
        f"Using each of the numbers {', '.join(map(str, numbers))} exactly once, and + - * / and brackets, write an expression "
        f"that equals {target}. Give nothing but the expression between <answer> and </answer>."
    )
