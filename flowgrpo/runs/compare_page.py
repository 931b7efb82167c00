"""A comparison as Markdown, JSON, plot and page."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flowgrpo.core.intervals import Interval
from flowgrpo.core.whole import write_text
from flowgrpo.pages.marks import colour
from flowgrpo.pages.plot import Line, Panel, figure
from flowgrpo.pages.tables import Row, markdown_table, plain
from flowgrpo.pages.templates import render
from flowgrpo.runs.compare import Comparison, Estimate, Recipe, Seed
from flowgrpo.runs.curve import EVALUATIONS, HELD_OUT, SECONDS

MINUS, NONE = "\N{MINUS SIGN}", "\N{EM DASH}"
WORDS = {"better": "good", "worse": "bad", "no difference shown": "open"}


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write compare.md, compare.json, compare.svg and compare.html."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"md": markdown(comparison) + "\n", "json": as_json(comparison), "svg": plot(comparison), "html": page(comparison)}
    for suffix, text in files.items():
        write_text(folder / f"compare.{suffix}", text)


def as_json(comparison: Comparison) -> str:
    return json.dumps(asdict(comparison))


def markdown(comparison: Comparison) -> str:
    """A table whose columns also line up in a terminal, and what its numbers mean."""
    rows = [_header(comparison), *(_cells(comparison, recipe) for recipe in comparison.recipes)]
    return "\n".join([markdown_table(rows), "", *(f"- {note}" for note in _notes(comparison))])


def _header(comparison: Comparison) -> list[str]:
    return [
        "recipe",
        "seeds",
        "updates",
        "network evaluations",
        "seconds",
        "before",
        "after",
        "gain",
        f"gain at {comparison.equal_network_evaluations:,.0f} evaluations",
        f"gain at {comparison.equal_seconds:,.0f} s",
        f"against {comparison.recipes[0].recipe}",
    ]


def _cells(comparison: Comparison, recipe: Recipe) -> list[str]:
    rate = comparison.rate
    return [
        recipe.recipe,
        _seeds(recipe),
        f"{recipe.updates:,.0f}",
        f"{recipe.network_evaluations:,.0f}",
        f"{recipe.seconds:,.0f}",
        _value(recipe.before, rate),
        NONE if recipe.after is None else _value(recipe.after, rate),
        NONE if recipe.gain is None else _estimate(recipe.gain, rate),
        _estimate(recipe.gain_at_equal_network_evaluations, rate),
        _estimate(recipe.gain_at_equal_seconds, rate),
        _against(comparison, recipe),
    ]


def _seeds(recipe: Recipe) -> str:
    unfinished = len(recipe.seeds) - _finished(recipe)
    return f"{len(recipe.seeds)} ({unfinished} unfinished)" if unfinished else f"{len(recipe.seeds)}"


def _finished(recipe: Recipe) -> int:
    return sum(seed.finished for seed in recipe.seeds)


def _against(comparison: Comparison, recipe: Recipe) -> str:
    if recipe is comparison.recipes[0]:
        return "baseline"
    difference = recipe.against_baseline
    alone = " (one seed)" if min(_finished(recipe), _finished(comparison.recipes[0])) == 1 else ""
    return NONE if difference is None else f"{_estimate(difference, comparison.rate)} {difference.word}{alone}"


def _value(value: float, rate: bool) -> str:
    return f"{value:.1%}" if rate else f"{value:.4g}"


def _estimate(estimate: Estimate, rate: bool) -> str:
    return f"{_change(estimate.mean, rate)} {_interval(estimate.ci95, rate)}".strip()


def _change(value: float, rate: bool) -> str:
    return (f"{value:+.1%}" if rate else f"{value:+.3g}").replace("-", MINUS)


def _interval(interval: Interval | None, rate: bool) -> str:
    """In points of per cent where the value before it is in per cent."""
    if interval is None:
        return ""
    low, high = (f"{100 * end:+.1f}" if rate else f"{end:+.3g}" for end in interval)
    return f"[{low}, {high}]".replace("-", MINUS)


def _notes(comparison: Comparison) -> list[str]:
    return [
        f"Metric: {comparison.metric} on {comparison.prompts} held-out prompts. Costs are of training alone; network evaluations "
        "are those of rollouts, seconds are all.",
        "Brackets are 95 % intervals. Gain and difference: bootstrap over seeds and prompts, paired by prompt; it is too "
        "narrow for two or three seeds that differ much, and from one seed it covers prompts only.",
        "Gains at equal cost: Student's t over seeds, on straight lines between evaluations. Equal cost is the most that every "
        "run reached; seconds compare only where all runs had the same machine to themselves.",
        "Each interval stands alone: among twenty recipes no better than the baseline, one is expected to look different.",
    ]


def plot(comparison: Comparison) -> str:
    """Mean over seeds as a line, least to greatest as a band."""
    size, unit = _unit(max(recipe.seconds for recipe in comparison.recipes))
    about = f"held-out {comparison.metric}: mean over seeds, band from lowest to highest seed"
    panels = [
        Panel(about, "network evaluations in training", [_line(recipe, EVALUATIONS, 1) for recipe in comparison.recipes]),
        Panel("the same against time", f"{unit} of training", [_line(recipe, SECONDS, size) for recipe in comparison.recipes]),
    ]
    return figure(panels, comparison.rate)


def _unit(seconds: float) -> tuple[int, str]:
    return next(unit for unit in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if seconds >= 2 * unit[0] or unit[0] == 1)


def _line(recipe: Recipe, column: int, size: float) -> Line:
    """As far as every seed has come."""
    curves = [np.array(seed.curve) for seed in recipe.seeds]
    reach = min(curve[-1, column] for curve in curves)
    x = np.unique(np.concatenate([[reach], *(curve[curve[:, column] < reach, column] for curve in curves)]))
    y = np.array([np.interp(x, curve[:, column], curve[:, HELD_OUT]) for curve in curves])
    return Line(recipe.recipe, x / size, y.mean(0), y.min(0), y.max(0))


def page(comparison: Comparison) -> str:
    tags = list(dict.fromkeys(tag for recipe in comparison.recipes for tag in recipe.gain_by_tag))
    seeds = [seed for recipe in comparison.recipes for seed in recipe.seeds]
    return render(
        "runs/compare.html.jinja",
        metric=comparison.metric,
        header=_header(comparison),
        rows=[_main_row(comparison, recipe) for recipe in comparison.recipes],
        notes=_notes(comparison),
        picture=base64.b64encode(plot(comparison).encode()).decode(),
        tag_header=["recipe", *(tag.replace("_", " ") for tag in tags)],
        tag_rows=[_tag_row(recipe, tags, comparison.rate) for recipe in comparison.recipes if recipe.gain_by_tag],
        run_header=["run", "seed", "updates", "network evaluations", "seconds", "last held-out", "finished"],
        runs=[plain(_run_cells(seed, comparison.rate)) for seed in seeds],
    )


def _main_row(comparison: Comparison, recipe: Recipe) -> Row:
    """Intervals and words go below their number, to spare width."""
    cells = [cell.replace(" [", "\n[").replace("] ", "]\n").replace(" (", "\n(") for cell in _cells(comparison, recipe)]
    against = WORDS[recipe.against_baseline.word] if recipe.against_baseline else ""
    return cells, [""] * (len(cells) - 1) + [against]


def _tag_row(recipe: Recipe, tags: Sequence[str], rate: bool) -> Row:
    gains = [recipe.gain_by_tag.get(tag) for tag in tags]
    cells = [NONE if gain is None else _change(gain, rate) for gain in gains]
    return [recipe.recipe, *cells], ["", *("" if gain is None else colour(gain) for gain in gains)]


def _run_cells(seed: Seed, rate: bool) -> list[str]:
    evaluations, seconds, held_out = seed.curve[-1]
    finished = "yes" if seed.finished else "no"
    return [
        seed.run,
        f"{seed.seed}",
        f"{seed.updates}",
        f"{evaluations:,.0f}",
        f"{seconds:,.0f}",
        _value(held_out, rate),
        finished,
    ]
