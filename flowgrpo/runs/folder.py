"""A run folder. Every file in it is whole or absent; metrics.jsonl and scores.jsonl grow by whole lines.

run.json            what it began from (`provenance.py`)
config.yaml         the config it has now
notes.json          what the policy does to its prompts
calibration.json    noise levels, and what finding them cost
metrics.jsonl       a row an update, and a row a held-out evaluation in between
alarms.json         what its sentinels have said
samples/WHEN/       held-out samples and their scores.jsonl; WHEN is before, latest (between updates) or after
samples/tree/, tree.json    a group of the last update
held_out.json       before and after, compared
summary.json        the last line that `flowgrpo train` prints
checkpoint-N/       weights in the model's own format, and the state of the trainer
report.html
"""

import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from filelock import FileLock, Timeout

from flowgrpo.config.run import Config, dump, load_config
from flowgrpo.config.tree import parse_yaml
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import append_lines, read_json, read_lines, write_json, write_lines, write_text
from flowgrpo.data.records import Record, read_records

When = Literal["before", "latest", "after"]
Row = dict[str, Any]
STAMP = re.compile(r"-\d{8}-\d{6}(-\d+)?$")
"""What a run folder's name has behind the name of its recipe."""
PREFIX = "checkpoint-"
MOMENT = 0.3
"""Seconds."""


@dataclass(frozen=True)
class Alarm:
    """What a watched reward gave cause to say, at its first update."""

    update: int
    sentence: str


class RunFolder:
    """Read anew at every question, so that a run which is still training shows how far it is."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def begin(cls, output: str, recipe: str) -> Self:
        """A new folder `output/RECIPE-TIME`."""
        stem = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
        for count in itertools.count(1):
            path = Path(output) / (stem if count == 1 else f"{stem}-{count}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(path)
        raise AssertionError

    @classmethod
    def newest(cls, output: str, recipe: str) -> Self:
        """Errors: UserError where there is none."""
        named = cls.of(output, recipe)
        if not named:
            raise UserError(f"nothing to resume: no run of '{recipe}' in {output}")
        return named[0]

    @classmethod
    def of(cls, output: str, recipe: str) -> list[Self]:
        """Runs of a recipe, the newest first."""
        runs = [cls(file.parent) for file in Path(output).glob("*/run.json")]
        named = [run for run in runs if run.recipe == recipe]
        return sorted(named, key=lambda run: run.path.stat().st_mtime, reverse=True)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def recipe(self) -> str:
        """`NAME` of a run folder `NAME-TIME`."""
        return STAMP.sub("", self.name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, the run belongs to this process. Errors: UserError where it belongs to another.

        Whoever only asks whether it is being trained holds it for a moment.
        """
        try:
            with FileLock(self.path / ".lock", timeout=MOMENT):
                yield
        except Timeout as error:
            raise UserError(f"{self} is being trained by another process; wait for it, or stop it first") from error

    @property
    def is_training(self) -> bool | None:
        """Whether a process trains it now; None where that can't be found out, since the folder is somebody else's."""
        lock = self.path / ".lock"
        if not lock.is_file():
            return False
        if not os.access(lock, os.W_OK):
            return None
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True

    @property
    def config(self) -> Config:
        return load_config(str(self._config_file()))

    @property
    def settings(self) -> Row:
        """The config as it was written, unchecked: what an older version has trained can be looked at."""
        return parse_yaml(self._config_file().read_text(encoding="utf-8"))

    @property
    def config_text(self) -> str:
        """Empty where there is none."""
        file = self.path / "config.yaml"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def _config_file(self) -> Path:
        file = self.path / "config.yaml"
        if not file.is_file():
            raise UserError(f"{self} is not a run folder (no config.yaml); name the folder of a run")
        return file

    def save_config(self, config: Config) -> None:
        write_text(self.path / "config.yaml", dump(config))

    @property
    def notes(self) -> list[str]:
        """What the report says of the prompts, such as how many are cut."""
        return self._json("notes.json") or []

    def save_notes(self, notes: Sequence[str]) -> None:
        write_json(self.path / "notes.json", list(notes), indent=1)

    @property
    def calibration(self) -> Row | None:
        """The noise levels that this run has found, and what that cost."""
        return self._json("calibration.json")

    def save_calibration(self, facts: Mapping[str, Any]) -> None:
        write_json(self.path / "calibration.json", facts)

    @property
    def alarms(self) -> dict[str, Row]:
        """By the label of the reward."""
        return self._json("alarms.json") or {}

    def save_alarms(self, alarms: Mapping[str, Alarm]) -> None:
        write_json(self.path / "alarms.json", {label: asdict(alarm) for label, alarm in alarms.items()}, indent=1)

    @property
    def tree(self) -> Row | None:
        """A group of the last update."""
        return self._json("tree.json")

    @property
    def held_out(self) -> Row | None:
        """Held-out scores before and after; None where there is no evaluation, or the run is not at its end."""
        return self._json("held_out.json")

    def save_held_out(self, comparison: Mapping[str, Any]) -> None:
        write_json(self.path / "held_out.json", comparison, indent=1)

    @property
    def summary(self) -> Row:
        """What `flowgrpo train` ends with. Errors: UserError where the run is not at its end."""
        return read_json(self.path / "summary.json")

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def samples(self, when: When) -> Path:
        """The folder of held-out samples and their records."""
        return self.path / "samples" / when

    def scores_file(self, when: When) -> Path:
        return self.samples(when) / "scores.jsonl"

    def records(self, when: When) -> list[Record]:
        """Of all held-out prompts, in order of rows."""
        return sorted(read_records(self.scores_file(when)), key=lambda record: record.key)

    def scores(self, when: When, label: str) -> np.ndarray:
        """[N] of N held-out prompts. Errors: UserError where they are missing."""
        records = self.records(when)
        if not records:
            raise UserError(f"{self.scores_file(when)} is missing; bring it back, or begin anew")
        return np.array([record.scores[label] for record in records])

    @property
    def metrics(self) -> list[Row]:
        """Rows in the order in which they were written. A last line that a process could not finish does not count.

        Errors: UserError that names a line which is damaged.
        """
        file, rows = self.path / "metrics.jsonl", []
        for number, line in enumerate(read_lines(file), 1):
            try:
                row = json.loads(line)
                rows.append({**row, "update": row["update"]})
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{file}, line {number} is damaged ({error}); take this line out, then go on with --resume"
                ) from error
        return rows

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        append_lines(self.path / "metrics.jsonl", [json.dumps(metrics)])

    def rewind_metrics(self, updates: int) -> None:
        """Forget the rows of updates that are about to be done again.

        Errors: UserError where a row of an earlier one is missing.
        """
        rows = [row for row in self.metrics if row["update"] < updates]
        if lost := sorted({*range(updates)} - {row["update"] for row in rows if "reward" in row}):
            raise UserError(
                f"{self}/metrics.jsonl has no row of update {lost[0]}, and the checkpoint is of {updates} updates; bring the "
                f"file back, or go on from a checkpoint of at most {lost[0]} updates with --resume {self}/checkpoint-N"
            )
        write_lines(self.path / "metrics.jsonl", map(json.dumps, rows))

    @property
    def checkpoints(self) -> list[Path]:
        """Whole ones, oldest first."""
        return sorted(self.path.glob(f"{PREFIX}[0-9]*"))

    @property
    def weights(self) -> Path:
        """The folder of the last weights, averaged ones where the run keeps them. Errors: UserError where there are none."""
        if not self.checkpoints:
            raise UserError(f"{self} has no checkpoint yet; let it train, or go on with --resume {self}")
        last = self.checkpoints[-1]
        return last / "ema" if (last / "ema").is_dir() else last

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.path}')"

    def _json(self, name: str) -> Any:
        file = self.path / name
        return read_json(file) if file.is_file() else None
