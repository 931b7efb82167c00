"""Countdown: reach a target with each of three or four numbers once. 512 generated problems, always the same, all solvable.

`strict` is the share of answers that are right, `valid` of those that use exactly the numbers.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._own import distinct, fixed
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

EACH = 256
SIZES = (3, 4)
NUMBERS, TARGETS = (1, 100), (1, 1000)
"""From the first, below the second."""
METRIC = "strict"


def rows() -> list[dict[str, Any]]:
    return [row for size in SIZES for row in _of_size(size)]


def _of_size(size: int) -> list[dict[str, Any]]:
    rng = numpy_generator(("countdown", size))
    return distinct(lambda: _problem(rng, size), EACH)


def _problem(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Numbers, and a target that some way to join them reaches."""
    while True:
        numbers = rng.integers(*NUMBERS, size).tolist()
        target = _joined(rng, [Fraction(number) for number in numbers])
        if target.denominator == 1 and TARGETS[0] <= target < TARGETS[1]:
            return {"prompt": prompt(numbers, int(target)), "numbers": numbers, "target": int(target), "size": size}


def _joined(rng: np.random.Generator, parts: list[Fraction]) -> Fraction:
    """Two neighbours after two become one, by an operator drawn at random; nothing is divided by zero."""
    while len(parts) > 1:
        i, operator = int(rng.integers(len(parts) - 1)), int(rng.integers(4))
        a, b = parts[i : i + 2]
        parts[i : i + 2] = [(a + b, a - b, a * b, a / (b or 1))[operator]]
    return parts[0]


def prompt(numbers: Sequence[int], target: int) -> str:
    return (
        f"Using each of the numbers {', '.join(map(str, numbers))} exactly once, and + - * / and brackets, write an expression "
        f"that equals {target}. Give nothing but the expression between <answer> and </answer>."
    )


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("size", asked, scores, METRIC)


benchmark = Benchmark(
    summary="512 countdown problems of three and four numbers, as instructions for language models",
    source="flowgrpo",
    licence="Apache-2.0",
    load=fixed(rows),
    rewards={
        METRIC: RewardConfig(use="arithmetic:countdown_strict"),
        "valid": RewardConfig(use="arithmetic:countdown_valid"),
    },
    metric=METRIC,
    figures=figures,
)
