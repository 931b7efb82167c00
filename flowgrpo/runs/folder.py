"""A run folder. Every file in it is whole or absent; metrics.jsonl grows by whole lines.

run.json, config.yaml, notes.json, calibration.json, metrics.jsonl, alarms.json, samples/, held_out.json, tree.json,
checkpoint-N/, report.html.
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
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from flowgrpo.config.run import Config, dump
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import read_json, write_json, write_text
from flowgrpo.data.media import kept
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Shown

When = Literal["before", "after"]
STAMP = re.compile(r"-\d{8}-\d{6}(-\d+)?$")
"""What a run folder's name has behind the name of its recipe."""


@dataclass(frozen=True)
class HeldOut:
    """Scores [N] by reward label for N prompts, and some of the samples by row."""

    prompts: list[Prompt]
    seeds: list[int]
    scores: dict[str, np.ndarray]
    shown: dict[int, Shown]


@dataclass(frozen=True)
class Alarm:
    """What a watched reward gave cause to say, at its first update."""

    update: int
    sentence: str


def new_run(output: str, name: str) -> Path:
    """`output/NAME-TIME`, never an existing folder."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for count in itertools.count(1):
        path = Path(output) / (stem if count == 1 else f"{stem}-{count}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError


def newest_run(output: str, name: str) -> Path:
    runs = [path for path in Path(output).glob("*") if STAMP.sub("", path.name) == name and (path / "run.json").is_file()]
    if not runs:
        raise UserError(f"nothing to resume: no run of '{name}' in {output}")
    return max(runs, key=lambda path: path.stat().st_mtime)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Inside, the run belongs to this process. Errors: UserError where it belongs to another."""
    try:
        with FileLock(run / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{run} is being trained by another process; wait for it, or stop it first") from error


def write_config(run: Path, config: Config) -> None:
    write_text(run / "config.yaml", dump(config))


def save_calibration(run: Path, found: Mapping[str, Any]) -> None:
    write_json(run / "calibration.json", found)


def load_calibration(run: Path) -> list[float] | None:
    """The noise levels that this run has found already."""
    path = run / "calibration.json"
    return read_json(path)["levels"] if path.is_file() else None


def save_notes(run: Path, notes: Sequence[str]) -> None:
    """What the report says of the prompts, such as how many are cut."""
    write_json(run / "notes.json", list(notes), indent=1)


def append_metrics(run: Path, metrics: Mapping[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(metrics) + "\n")
        file.flush()
        os.fsync(file.fileno())


def rewind_metrics(run: Path, updates: int) -> None:
    """Forget the rows of updates that are about to be done again. Errors: UserError where a row of an earlier one is missing."""
    rows = [row for row in load_metrics(run) if row["update"] < updates]
    if lost := sorted({*range(updates)} - {row["update"] for row in rows if "reward" in row}):
        raise UserError(
            f"{run}/metrics.jsonl has no row of update {lost[0]}, and the checkpoint is of {updates} updates; bring the file "
            f"back, or go on from a checkpoint of at most {lost[0]} updates with --resume {run}/checkpoint-N"
        )
    write_text(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def load_metrics(run: Path) -> list[dict[str, Any]]:
    """Rows in the order in which they were written. A last line that a process could not finish does not count.

    Errors: UserError that names a line which is damaged.
    """
    path = run / "metrics.jsonl"
    whole, _, _ = (path.read_bytes() if path.is_file() else b"").rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            row = json.loads(line)
            rows.append({**row, "update": row["update"]})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}, line {number} is damaged ({error}); take this line out, then go on with --resume"
            ) from error
    return rows


def save_alarms(run: Path, alarms: Mapping[str, Alarm]) -> None:
    """What sentinels have said so far, by the label of the reward."""
    write_json(run / "alarms.json", {label: asdict(alarm) for label, alarm in alarms.items()}, indent=1)


def save_held_out(run: Path, when: When, held_out: HeldOut) -> None:
    """What is shown in samples/index.json, its pictures and clips in samples/WHEN/, and all scores in samples/WHEN.json."""
    folder = run / "samples" / when
    folder.mkdir(parents=True, exist_ok=True)
    index_file = run / "samples" / "index.json"
    index = read_json(index_file) if when == "after" else _index(held_out)
    for entry, (row, sample) in zip(index, held_out.shown.items(), strict=True):
        scores = {label: float(values[row]) for label, values in held_out.scores.items()}
        entry[when] = {**kept(sample, run / "samples", f"{when}/{row:04d}"), "scores": scores}
    write_json(index_file, index, indent=1)
    scores = {label: values.tolist() for label, values in held_out.scores.items()}
    write_json(run / "samples" / f"{when}.json", scores)


def _index(held_out: HeldOut) -> list[dict[str, Any]]:
    chosen = [(held_out.prompts[row], held_out.seeds[row]) for row in held_out.shown]
    return [{"prompt": p.text, "tag": p.metadata.get("tag"), "seed": seed} for p, seed in chosen]


def load_scores(run: Path, when: When) -> dict[str, np.ndarray]:
    scores = read_json(run / "samples" / f"{when}.json")
    return {label: np.array(values) for label, values in scores.items()}
