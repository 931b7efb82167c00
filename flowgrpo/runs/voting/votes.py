"""Votes on the disk: a line of JSON each, there as soon as it is given. What counts of a pair is its last line."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, get_args

from filelock import FileLock, Timeout

from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import append_lines, read_lines, write_lines
from flowgrpo.runs.voting.ballot import Ballot, Pair

Choice = Literal["left", "right", "tie", "skip"]
UNDONE = "undone"


class Votes:
    """`standing` are the choices by pair, in the order in which they were given; `strange` lines are of pairs of other ballots.

    Errors: UserError for a file that is damaged or holds something else.
    """

    def __init__(self, file: Path, ballot: Ballot) -> None:
        self.file, self.ballot = file, ballot
        self.standing: dict[str, Choice] = {}
        self.strange = 0
        for number, line in enumerate(read_lines(file), 1):
            pair, choice = _parsed(line, f"{file}, line {number}")
            if pair in ballot.by_id:
                self._stand(pair, choice)
            else:
                self.strange += 1

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Inside, only this process writes to the file, and a line that was cut short is gone."""
        try:
            with FileLock(self.file.with_name(f".{self.file.name}.lock"), timeout=0):
                if self.file.is_file():
                    write_lines(self.file, read_lines(self.file))
                yield self
        except Timeout as error:
            raise UserError(f"somebody votes into {self.file} already; wait, or name another file with --out") from error

    @property
    def open(self) -> Iterator[Pair]:
        """The pairs that are still to be asked."""
        return (pair for pair in self.ballot.pairs if pair.id not in self.standing)

    def cast(self, pair: Any, choice: Any) -> None:
        """Errors: UserError for a pair or a choice that isn't there."""
        if not isinstance(pair, str) or pair not in self.ballot.by_id:
            raise UserError("there is no such pair; load the page again")
        if choice not in get_args(Choice):
            raise UserError(f"a vote is one of {', '.join(get_args(Choice))}")
        self._write(self.ballot.by_id[pair], choice)

    def undo(self) -> None:
        """Take back the last vote. Errors: UserError where there is none."""
        if not self.standing:
            raise UserError("there is no vote to take back")
        self._write(self.ballot.by_id[next(reversed(self.standing))], UNDONE)

    def _write(self, pair: Pair, choice: str) -> None:
        line = {"pair": pair.id, "prompt": pair.prompt, "seed": pair.seed, "left": pair.left, "right": pair.right}
        append_lines(self.file, [json.dumps({**line, "choice": choice})])
        self._stand(pair.id, choice)

    def _stand(self, pair: str, choice: Any) -> None:
        self.standing.pop(pair, None)
        if choice != UNDONE:
            self.standing[pair] = choice

    def preferences(self, folder: Path) -> list[dict[str, str]]:
        """Rows of prompt, chosen and rejected, one for each vote for a side; files are named as seen from `folder`."""
        rows = []
        for id, choice in self.standing.items():
            if choice in ("left", "right"):
                pair = self.ballot.by_id[id]
                chosen, rejected = pair.samples if choice == "left" else pair.samples[::-1]
                shown = {"chosen": chosen, "rejected": rejected}
                rows.append({"prompt": pair.prompt, **{name: _named(sample, folder) for name, sample in shown.items()}})
        return rows


def _named(sample: Any, folder: Path) -> str:
    return sample.content if sample.kind == "text" else os.path.relpath(sample.content, folder)


def _parsed(line: str, where: str) -> tuple[str, str]:
    try:
        row: Mapping[str, Any] = json.loads(line)
        pair, choice = row["pair"], row["choice"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where} is no vote ({error}); take the line out, or name another file with --out") from error
    if not isinstance(pair, str) or choice not in (*get_args(Choice), UNDONE):
        raise UserError(f"{where} is no vote; take the line out, or name another file with --out")
    return pair, choice
