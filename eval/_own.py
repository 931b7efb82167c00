"""Prompts that come with flowgrpo or are generated: the same ones for everybody."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt, load_prompts

Row = dict[str, Any]
Load = Callable[[Path | None], list[Prompt]]


def shipped(source: str) -> Load:
    """Those of a file among the assets."""
    return fixed(lambda: [prompt.metadata for prompt in load_prompts(source)])


def fixed(make: Callable[[], Sequence[Row]]) -> Load:
    """Those of the rows that `make` returns; no other file is taken for them."""

    def load(path: Path | None) -> list[Prompt]:
        if path is not None:
            raise UserError("this benchmark has its own prompts; leave --file out")
        return numbered(make())

    return load


def numbered(rows: Sequence[Row]) -> list[Prompt]:
    return [Prompt(index, row["prompt"], row) for index, row in enumerate(rows)]


def distinct(draw: Callable[[], Row], count: int) -> list[Row]:
    """Draw until so many rows differ."""
    found: dict[str, Row] = {}
    while len(found) < count:
        row = draw()
        found.setdefault(json.dumps(row, sort_keys=True), row)
    return list(found.values())
