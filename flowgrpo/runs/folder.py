"""A run folder.

config.yaml, notes.json, calibration.json, metrics.jsonl, alarms.json, samples/, held_out.json, tree.json, checkpoint-N/,
report.html.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flowgrpo.config.run import Config, dump
from flowgrpo.core.errors import UserError
from flowgrpo.data.media import kept
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Shown

When = Literal["before", "after"]


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
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path(output) / f"{name}-{stamp}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    path.mkdir(parents=True)
    return path


def newest_run(output: str, name: str) -> Path:
    runs = sorted(Path(output).glob(f"{name}-[0-9]*"), key=lambda p: p.stat().st_mtime)
    if not runs:
        raise UserError(f"nothing to resume: no run of '{name}' in {output}")
    return runs[-1]


def write_config(run: Path, config: Config) -> None:
    (run / "config.yaml").write_text(dump(config))


def save_calibration(run: Path, found: Mapping[str, Any]) -> None:
    (run / "calibration.json").write_text(json.dumps(found))


def load_calibration(run: Path) -> list[float] | None:
    """The noise levels that this run has found already."""
    path = run / "calibration.json"
    return json.loads(path.read_text())["levels"] if path.is_file() else None


def save_notes(run: Path, notes: Sequence[str]) -> None:
    """What the report says of the prompts, such as how many are cut."""
    (run / "notes.json").write_text(json.dumps(notes, indent=1))


def append_metrics(run: Path, metrics: Mapping[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def rewind_metrics(run: Path, updates: int) -> None:
    """Forget the lines of updates that are about to be done again."""
    path = run / "metrics.jsonl"
    if path.exists():
        kept = [row for row in load_metrics(run) if row["update"] < updates]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def load_metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def save_alarms(run: Path, alarms: Mapping[str, Alarm]) -> None:
    """What sentinels have said so far, by the label of the reward."""
    (run / "alarms.json").write_text(json.dumps({label: asdict(alarm) for label, alarm in alarms.items()}, indent=1))


def save_held_out(run: Path, when: When, held_out: HeldOut) -> None:
    """What is shown in samples/index.json, its pictures and clips in samples/WHEN/, and all scores in samples/WHEN.json."""
    folder = run / "samples" / when
    folder.mkdir(parents=True, exist_ok=True)
    index_file = run / "samples" / "index.json"
    index = json.loads(index_file.read_text()) if when == "after" else _index(held_out)
    for entry, (row, sample) in zip(index, held_out.shown.items(), strict=True):
        scores = {label: float(values[row]) for label, values in held_out.scores.items()}
        entry[when] = {**kept(sample, run / "samples", f"{when}/{row:04d}"), "scores": scores}
    index_file.write_text(json.dumps(index, indent=1))
    scores = {label: values.tolist() for label, values in held_out.scores.items()}
    (run / "samples" / f"{when}.json").write_text(json.dumps(scores))


def _index(held_out: HeldOut) -> list[dict[str, Any]]:
    chosen = [(held_out.prompts[row], held_out.seeds[row]) for row in held_out.shown]
    return [{"prompt": p.text, "tag": p.metadata.get("tag"), "seed": seed} for p, seed in chosen]


def load_scores(run: Path, when: When) -> dict[str, np.ndarray]:
    scores = json.loads((run / "samples" / f"{when}.json").read_text())
    return {label: np.array(values) for label, values in scores.items()}
