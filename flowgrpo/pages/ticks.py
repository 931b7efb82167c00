"""The numbers at an axis."""

import math
import re
from collections.abc import Sequence

ROUNDING, LEAST = 1e-8, 1e-290
"""What is closer, in parts of the number or as it is, can't be told apart in a label, or not divided."""


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers, evenly spaced, about `most` of them, that enclose both. Numbers that differ by rounding alone are one."""
    largest = max(abs(low), abs(high))
    span = high - low
    if span <= max(ROUNDING * largest, LEAST):
        span = largest if largest > LEAST else 1.0
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * unit for factor in (1, 2, 5, 10) if span <= most * factor * unit * 1.001)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """As short as they can be while each tells itself from the next; powers of ten where numbers are very small or large."""
    largest = max(abs(tick) for tick in ticks)
    unit, top = (math.floor(math.log10(size) + 1e-9) for size in (ticks[1] - ticks[0], largest))
    if 1e-4 <= largest < 1e6:
        return [f"{round(tick, max(0, -unit)) + 0.0:.10g}" for tick in ticks]
    return [re.sub(r"e([+-])0*", lambda found: f"e{found[1].strip('+')}", f"{tick:.{top - unit + 1}g}") for tick in ticks]
