"""Run folders as curves: the held-out metric against what training has cost so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.config.tree import parse_yaml
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import read_json
from flowgrpo.data.samples import spread
from flowgrpo.runs.folder import STAMP, load_metrics, load_scores

EVALUATIONS, SECONDS, HELD_OUT = range(3)


@dataclass(frozen=True)
class Run:
    """Held-out scores [N], one per prompt, before and (None: unfinished) after training.

    `curve` [K, 3] goes from the untrained model, row (0, 0, mean score), to the last evaluation; its columns are network
    evaluations and seconds spent on training so far, and the held-out mean.
    """

    path: Path
    recipe: str
    config: dict[str, Any]
    updates: int
    before: np.ndarray
    after: np.ndarray | None
    curve: np.ndarray
    by_tag: dict[str, dict[str, Any]]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def metric(self) -> str:
        return self.config["evaluation"]["metric"]

    def gain_at(self, column: int, cost: float) -> float:
        """Gain when `cost` had been spent, on straight lines between evaluations."""
        return float(np.interp(cost, self.curve[:, column], self.curve[:, HELD_OUT])) - self.curve[0, HELD_OUT]


def recipe_of(run: Path) -> str:
    """`NAME` of a run folder `NAME-TIME`."""
    return STAMP.sub("", run.resolve().name)


def find_runs(sources: Sequence[str | Path]) -> list[Path]:
    """The run folders that are named or lie in the named folders, each once, in the order of the sources."""
    found = [log.parent for source in sources for log in _logs(Path(source))]
    return list({run.resolve(): run for run in found}.values())


def _logs(source: Path) -> list[Path]:
    logs = sorted(source.rglob("metrics.jsonl"))
    if not logs:
        raise UserError(f"{source} holds no run (no metrics.jsonl in it); name run folders or a folder of them")
    return logs


def read_run(path: Path) -> Run:
    config = _config(path)
    metric = config["evaluation"]["metric"]
    before = load_scores(path, "before")[metric]
    rows = load_metrics(path)
    training = [row for row in rows if "network_evaluations" in row]
    costs = np.cumsum([_calibration(path), *((row["network_evaluations"], _seconds(row)) for row in training)], axis=0)
    spent = {row["update"]: cost for row, cost in zip(training, costs[1:], strict=True)}
    finished = (path / "held_out.json").is_file() and len(training) == config["updates"]
    after = load_scores(path, "after")[metric] if finished else None
    curve = [(0.0, 0.0, before.mean()), *_between(rows, spent, before, config)]
    if after is not None:
        curve.append((*costs[-1], after.mean()))
    if len(curve) == 1:
        raise UserError(f"{path} has no held-out evaluation after its start; go on with --resume, or leave it out")
    by_tag = read_json(path / "held_out.json").get("by_tag", {}) if finished else {}
    return Run(path, recipe_of(path), config, len(training), before, after, np.array(curve), by_tag)


def _config(path: Path) -> dict[str, Any]:
    for needed in ("config.yaml", "samples/before.json"):
        if not (path / needed).is_file():
            raise UserError(f"{path} has no {needed}; leave it out, or train it again with an `evaluation` section")
    return parse_yaml((path / "config.yaml").read_text(encoding="utf-8"))


def _calibration(path: Path) -> tuple[float, float]:
    """What a run spent before its first update."""
    file = path / "calibration.json"
    found = read_json(file) if file.is_file() else {"network_evaluations": 0.0, "seconds": 0.0}
    return found["network_evaluations"], found["seconds"]


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
