"""Run folders as curves: the held-out metric against what training has cost so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import spread
from flowgrpo.runs.folder import RunFolder

EVALUATIONS, SECONDS, HELD_OUT = range(3)


@dataclass(frozen=True)
class Curve:
    """Held-out scores [N], one per prompt, before and (None: unfinished) after training.

    `points` [K, 3] go from the untrained model, row (0, 0, mean score), to the last evaluation; its columns are network
    evaluations and seconds spent on training so far, and the held-out mean.
    """

    run: RunFolder
    config: dict[str, Any]
    updates: int
    before: np.ndarray
    after: np.ndarray | None
    points: np.ndarray
    by_tag: dict[str, dict[str, Any]]

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def recipe(self) -> str:
        return self.run.recipe

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def metric(self) -> str:
        return self.config["evaluation"]["metric"]

    def gain_at(self, column: int, cost: float) -> float:
        """Gain when `cost` had been spent, on straight lines between evaluations."""
        return float(np.interp(cost, self.points[:, column], self.points[:, HELD_OUT])) - self.points[0, HELD_OUT]


def find_runs(sources: Sequence[str | Path]) -> list[RunFolder]:
    """The run folders that are named or lie in the named folders, each once, in the order of the sources."""
    folders = [log.parent for source in sources for log in _logs(Path(source))]
    return [RunFolder(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]


def _logs(source: Path) -> list[Path]:
    logs = sorted(source.rglob("metrics.jsonl"))
    if not logs:
        raise UserError(f"{source} holds no run (no metrics.jsonl in it); name run folders or a folder of them")
    return logs


def curve_of(run: RunFolder) -> Curve:
    """Errors: UserError for a run without held-out evaluations."""
    config = run.settings
    if not run.records("before"):
        raise UserError(f"{run} has no held-out scores; leave it out, or train it again with an `evaluation` section")
    metric = config["evaluation"]["metric"]
    before, rows, held_out = run.scores("before", metric), run.metrics, run.held_out
    training = [row for row in rows if "network_evaluations" in row]
    costs = np.cumsum([_calibration(run), *((row["network_evaluations"], _seconds(row)) for row in training)], axis=0)
    spent = {row["update"]: cost for row, cost in zip(training, costs[1:], strict=True)}
    finished = held_out is not None and len(training) == config["updates"]
    after = run.scores("after", metric) if finished else None
    points = [(0.0, 0.0, before.mean()), *_between(rows, spent, before, config)]
    if after is not None:
        points.append((*costs[-1], after.mean()))
    if len(points) == 1:
        raise UserError(f"{run} has no held-out evaluation after its start; go on with --resume, or leave it out")
    by_tag = held_out.get("by_tag", {}) if held_out and finished else {}
    return Curve(run, config, len(training), before, after, np.array(points), by_tag)


def _calibration(run: RunFolder) -> tuple[float, float]:
    """What a run spent before its first update."""
    spent = run.calibration or {"network_evaluations": 0.0, "seconds": 0.0}
    return spent["network_evaluations"], spent["seconds"]


def _seconds(row: dict[str, Any]) -> float:
    return sum(value for key, value in row.items() if key.startswith("seconds/"))


def _between(
    rows: list[dict[str, Any]], spent: dict[int, np.ndarray], before: np.ndarray, config: dict[str, Any]
) -> list[tuple[float, float, float]]:
    """Points of the evaluations during training.

    These may see fewer prompts. Each adds its gain on the prompts that it saw to the mean before training over all prompts.
    """
    evaluation = config["evaluation"]
    seen = spread(range(len(before)), evaluation["limit_between"])
    shift = before.mean() - before[seen].mean()
    label = f"held_out/{evaluation['metric']}"
    return [(*spent[row["update"]], row[label] + shift) for row in rows if label in row]
