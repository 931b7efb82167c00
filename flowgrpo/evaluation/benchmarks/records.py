"""scores.jsonl: what one model answered and what its answers scored, a line a sample, on the disk as soon as it is known."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import write_text


@dataclass(frozen=True)
class Record:
    """Sample number `sample` of the prompt in row `row`. `made` is its text, or the file of its picture or clip if kept.

    A reward has either a score, or in `errors` what failed.
    """

    row: int
    sample: int
    seed: int
    prompt: str
    scores: dict[str, float]
    errors: dict[str, str]
    made: dict[str, str]


def read_records(file: Path) -> list[Record]:
    """Without a line that was cut short when its writer was stopped."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [Record(**json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} has a line that `flowgrpo eval` has not written; choose another --out") from error


def write_records(file: Path, records: Iterable[Record]) -> None:
    """All of the file, whole or as it was."""
    write_text(file, _lines(records))


def append_records(file: Path, records: Iterable[Record]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(_lines(records))


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(asdict(record)) + "\n" for record in records)
