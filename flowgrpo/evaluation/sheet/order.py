"""The order of files by their names: numbers in them count as numbers, so 10 comes after 2."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

Key = list[str | float]
WHOLE = re.compile(r"(\d+)")
DECIMAL = re.compile(r"(^-?\d+(?:\.\d+)?|\d+(?:\.\d+)?)")


def in_order(path: Path) -> list[Key]:
    """What to sort by: folder by folder, numbers as numbers, whatever the case."""
    return [*(_whole(part) for part in path.parts), [str(path)]]


def uncertain(paths: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two neighbours of files in order that others could put the other way round: 01 and 1, a and B, 0.5 and 0.10."""
    readings: list[Callable[[str], Key]] = [_whole, _with_case, _decimal]
    if len({len(path.stem) for path in paths}) == 1:
        readings.append(lambda name: [name])
    for one, other in pairwise(paths):
        if any(read(one.stem) >= read(other.stem) for read in readings):
            return one, other
    return None


def _whole(name: str) -> Key:
    return _with_case(name.casefold())


def _with_case(name: str) -> Key:
    return [int(part) if i % 2 else part for i, part in enumerate(WHOLE.split(name))]


def _decimal(name: str) -> Key:
    return [float(part) if i % 2 else part for i, part in enumerate(DECIMAL.split(name.casefold()))]
