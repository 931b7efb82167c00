"""Prompts that come with flowgrpo or are generated: the same ones for everybody."""

from collections.abc import Callable, Sequence
from pathlib import Path

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.prompts._rows import Row

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
