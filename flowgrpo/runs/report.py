"""report.html: a training run as one file that opens offline. It reads the run folder and nothing else."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowgrpo.config.tree import parse_yaml
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import write_text
from flowgrpo.data.records import Record
from flowgrpo.pages.line_plots import Point, plot
from flowgrpo.pages.page import Page
from flowgrpo.pages.pictures import Sample, sample
from flowgrpo.pages.templates import render
from flowgrpo.runs.folder import Row, RunFolder, When
from flowgrpo.runs.tree_drawing import draw_tree

ROUNDING = 1e-6
HEALTH = {
    "advantage/zero_variance_groups": "groups without variance",
    "ratio/clip_fraction": "clipped share",
    "ratio/first_log_abs_max": "largest |log-ratio|, first step",
    "ratio/log_abs_max": "largest |log-ratio|",
    "kl": "KL to the reference",
    "grad_norm": "gradient norm",
}
Show = Callable[[Path, Mapping[str, str]], Sample | None]
"""How a sample of a folder gets into the page."""


def write_report(run: RunFolder) -> Path:
    """Write report.html. What the run folder lacks is left out; only metrics.jsonl is required."""
    report = run.path / "report.html"
    write_text(report, report_page(run))
    return report


def _require_metrics(run: RunFolder) -> None:
    if not (run.path / "metrics.jsonl").is_file():
        raise UserError(f"{run} holds no metrics.jsonl, so there is nothing to report")


def curves_page(run: RunFolder) -> Page:
    _require_metrics(run)
    return Page(run.name, render("runs/curves.html.jinja", curves=curves(run.metrics, run.held_out, _watched(run))))


def report_page(run: RunFolder) -> str:
    _require_metrics(run)
    return render("runs/report.html.jinja", **values(run, "after", run.held_out, sample))


def values(run: RunFolder, newest: When, held_out: Row | None, show: Show) -> dict[str, Any]:
    """What the templates of a run's pages are filled with; `newest` samples are beside those from before.

    `held_out` is the run's comparison of before and after, if it is at its end.
    """
    metrics, tree = run.metrics, run.tree
    metric = held_out["metric"] if held_out else None
    watched = _watched(run)
    index = _index(run, newest)
    rate = _is_rate(metric, index)
    return {
        "name": run.name,
        "rehearsal": _settings(run).get("rehearsal") or [],
        "held_out": held_out,
        "rate": rate,
        "facts": _facts(metrics),
        "notes": run.notes,
        "tags": _tags(held_out.get("by_tag") or {}, rate) if held_out else [],
        "cards": _cards(run, index, metric, show),
        "sentinels": _sentinels(run, metrics, watched),
        "curves": curves(metrics, held_out, watched),
        "tree": draw_tree(run.path, tree) if tree and tree["nodes"] else "",
        "config_text": run.config_text,
    }


def _index(run: RunFolder, newest: When) -> list[dict[When, Record]]:
    """The held-out prompts of which samples were kept, with what was made before and last."""
    whens: tuple[When, When] = ("before", newest)
    kept = {when: {record.row: record for record in run.records(when) if record.shown} for when in whens}
    rows = dict.fromkeys(row for records in kept.values() for row in records)
    return [{when: records[row] for when, records in kept.items() if row in records} for row in rows]


def _settings(run: RunFolder) -> Row:
    return parse_yaml(run.config_text) or {}


def _is_rate(metric: str | None, index: Sequence[Mapping[When, Record]]) -> bool:
    """Whether every picture's score is 0 or 1, so that a mean is a share of prompts."""
    scores = [side.scores[metric] for row in index for side in row.values() if metric in side.scores]
    return bool(scores) and all(score in (0, 1) for score in scores)


def _facts(metrics: Sequence[Row]) -> dict[str, str]:
    seconds = sum(_numbers([v for row in metrics for k, v in row.items() if k.startswith("seconds/")]))
    calls = sum(_numbers([row.get("network_evaluations") for row in metrics]))
    facts = {"updates": f"{sum('reward' in row for row in metrics)}"}
    facts |= {"training": duration(seconds)} if seconds else {}
    return facts | ({"network evaluations": f"{calls:,.0f}"} if calls else {})


def _numbers(values: Sequence[Any]) -> list[float]:
    return [v for v in values if isinstance(v, int | float) and math.isfinite(v)]


def duration(seconds: float) -> str:
    sizes = ((7200, 3600, ".1f", "h"), (120, 60, ".0f", "min"), (0, 1, ".0f", "s"))
    return next(f"{seconds / size:{form}} {unit}" for least, size, form, unit in sizes if seconds >= least)


def _tags(tags: Mapping[str, Row], rate: bool) -> list[Row]:
    """With the places of both dots on a line."""
    values = [row[when] for row in tags.values() for when in ("before", "after")]
    low, high = (0.0, 1.0) if rate else (min(0.0, *values), max(values)) if values else (0.0, 0.0)

    def place(value: float) -> str:
        return f"{2 + 96 * (value - low) / ((high - low) or 1.0):.1f}%"

    return [
        {
            **row,
            "tag": tag.replace("_", " "),
            "gain": row["after"] - row["before"],
            "left": place(row["before"]),
            "right": place(row["after"]),
        }
        for tag, row in tags.items()
    ]


def _cards(run: RunFolder, index: Sequence[Mapping[When, Record]], metric: str | None, show: Show) -> list[Row]:
    """The greatest changes first."""
    cards = [_card(run, row, metric, show) for row in index]
    return sorted(cards, key=lambda card: -abs(card["change"]))


def _card(run: RunFolder, row: Mapping[When, Record], metric: str | None, show: Show) -> Row:
    first = next(iter(row.values()))
    return {
        "prompt": first.prompt,
        "tag": str(first.metadata.get("tag") or "").replace("_", " "),
        "change": _difference(row, metric),
        "sides": [
            {
                "when": when,
                "words": f"{when} training" if when != "latest" else "during training",
                "sample": show(run.samples(when), record.shown),
                "scores": record.scores,
            }
            for when, record in row.items()
        ],
    }


def _difference(row: Mapping[When, Record], metric: str | None) -> float:
    """Last minus before, in the metric or else summed over all scores."""
    if len(row) < 2:
        return 0.0
    before, after = (record.scores for record in row.values())
    shared = before.keys() & after.keys()
    return float(sum(after[label] - before[label] for label in (shared & {metric} or shared)))


def curves(metrics: Sequence[Row], held_out: Row | None, elsewhere: Sequence[str]) -> Row:
    """Plots of all but the rewards that are shown `elsewhere`, and whether held-out scores are marked on any."""
    keys = list(dict.fromkeys(k for row in metrics for k in row))
    scored = dict.fromkeys(k.partition("/")[2] for k in keys if k.startswith(("reward/", "held_out/")))
    names = [name for name in scored if name not in elsewhere]
    marks = {name: _marks(metrics, name, held_out) for name in names}
    phases = [k for k in keys if k.startswith("seconds/")]
    plots = [
        *(plot(name, {"": _series(metrics, f"reward/{name}")}, marks[name]) for name in names),
        plot("weighted reward", {"": _weighted(metrics)}, []),
        *(plot(title, {"": _series(metrics, key)}, []) for key, title in HEALTH.items()),
        plot("seconds", {k.partition("/")[2]: _series(metrics, k) for k in phases}, []),
    ]
    return {"plots": list(filter(None, plots)), "marked": any(marks.values())}


def _watched(run: RunFolder) -> list[str]:
    """The labels of the rewards that sentinels watch."""
    sentinels = _settings(run).get("sentinels") or {}
    return [*sentinels.get("panel", []), *sentinels.get("drift", {})]


def _sentinels(run: RunFolder, metrics: Sequence[Row], watched: Sequence[str]) -> Row | None:
    """Alarms, and the curves of what is watched."""
    alarms = list(run.alarms.values())
    if not watched and not alarms:
        return None
    return {"alarms": alarms, "plots": [plot(label, {"": _series(metrics, f"reward/{label}")}, []) for label in watched]}


def _weighted(metrics: Sequence[Row]) -> list[Point]:
    """Nothing where it is 0 but for rounding, as the sum of normalised rewards is."""
    points = _series(metrics, "reward")
    return points if any(abs(value) > ROUNDING for _, value in points) else []


def _series(metrics: Sequence[Row], key: str) -> list[Point]:
    return [(row["update"], row[key]) for row in metrics if _numbers([row.get(key)])]


def _marks(metrics: Sequence[Row], label: str, held_out: Row | None) -> list[tuple[Point, str]]:
    marks = [(point, "between") for point in _series(metrics, f"held_out/{label}")]
    if held_out and held_out["metric"] == label and metrics:
        ends = (0, held_out["before"]), (max(row["update"] for row in metrics), held_out["after"])
        marks += [(end, "after") for end in ends]
    return marks
