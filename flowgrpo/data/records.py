"""What a model answered and what its answers scored: a line of JSON a sample, on the disk as soon as it is known."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import append_lines, read_lines, write_lines


@dataclass(frozen=True)
class Record:
    """Sample number `sample` of the prompt in row `row` of its source, made with `seed`.

    `metadata` is the prompt's row, `prompt` included. `shown` is the sample's text, or the file of its picture or clip if it was
    kept, relative to the folder of the records, under its kind. A reward has either a score, or in `errors` what failed.
    """

    row: int
    sample: int
    seed: int
    metadata: dict[str, Any]
    shown: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        return self.row, self.sample

    @property
    def prompt(self) -> str:
        return self.metadata["prompt"]

    def as_json(self) -> str:
        """One row that `flowgrpo score` can read: the prompt's columns, and over them the record's own."""
        stated: dict[str, Any] = {"row": self.row, "sample": self.sample, "seed": self.seed}
        for kind, content in self.shown.items():
            stated |= {kind: content, "shown": kind}
        return json.dumps({**self.metadata, **stated, "scores": self.scores, "errors": self.errors})

    @classmethod
    def parse(cls, line: str) -> Self:
        row = json.loads(line)
        number, sample, seed = (row.pop(key) for key in ("row", "sample", "seed"))
        scores, errors, kind = row.pop("scores"), row.pop("errors"), row.pop("shown", None)
        return cls(number, sample, seed, row, {kind: row.pop(kind)} if kind else {}, scores, errors)


def read_records(file: Path) -> list[Record]:
    """Empty where there is no file. Errors: UserError for a line of something else."""
    try:
        return [Record.parse(line) for line in read_lines(file)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} has a line that flowgrpo has not written, or it is damaged; choose another folder") from error


def write_records(file: Path, records: Iterable[Record]) -> None:
    """All of the file, whole or as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_lines(file, (record.as_json() for record in records))


def append_records(file: Path, records: Iterable[Record]) -> None:
    append_lines(file, (record.as_json() for record in records))
