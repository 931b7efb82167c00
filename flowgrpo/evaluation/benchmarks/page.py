"""report.html of an evaluation: one file that opens offline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowgrpo.core.whole import write_text
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.benchmarks.benchmark import Figures
from flowgrpo.evaluation.benchmarks.comparison import prompt_gains
from flowgrpo.evaluation.benchmarks.report import Report, evidence, figure, figure_names, versions
from flowgrpo.pages.pictures import sample
from flowgrpo.pages.tables import Row
from flowgrpo.pages.templates import render

SHOWN, LOSSES = 24, 12
SIDE, LONG_SIDE, SHORT = 118, 240, 40
"""Pixels that a sample is wide at least, if it is long text or else; and characters that are not long."""
WORDS = {"better": "good", "worse": "bad", "no difference shown": "open"}
COLOURS = 4


def write_page(report: Report) -> None:
    last = report.results[-1].name
    page = render(
        "evaluation/benchmarks/page.html.jinja",
        name=report.name,
        benchmark=report.benchmark,
        rate=report.rate,
        models=report.results,
        labels=labels(report),
        card_width=_card_width(report),
        test=next((found for found in report.differences if found.checkpoint == last), None),
        words=WORDS,
        facts=_facts(report),
        differences=[(found, evidence(report, found)) for found in report.differences],
        **_figures(report),
        **_samples(report),
        command=report.command,
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
        device=report.device,
    )
    write_text(report.folder / "report.html", page)


def _card_width(report: Report) -> int:
    """Pictures and short texts stand close, long texts need room."""
    longest = max(len(record.shown.get("text", "")) for records in report.records.values() for record in records)
    return (SIDE if longest <= SHORT else LONG_SIDE) * max(len(report.results), 2)


def labels(report: Report) -> dict[str, str]:
    """Models by name, each with a short one: without its run, where that is not needed to tell it from others."""
    names = [found.name for found in report.results]
    short = [name[max(name.find("checkpoint-"), 0) :] for name in names]
    return dict(zip(names, short if len(set(short)) == len(short) else names, strict=True))


def _facts(report: Report) -> dict[str, str]:
    exam = report.exam
    failed = sum(count for found in report.results for count in found.failed.values())
    return {
        "prompts": f"{len(exam.prompts):,}",
        "samples of each": f"{exam.samples_per_prompt}",
        "models": f"{len(report.results)}",
        "steps": f"{exam.steps}",
        "seed": f"{exam.seed}",
        **({"scores that failed": f"{failed:,}"} if failed else {}),
    }


def _figures(report: Report) -> dict[str, Any]:
    """Lines of the figures that all models have, and a table of models by figures with published ones below."""
    names, published, short = figure_names(report), report.benchmark.published, labels(report)
    everywhere = [name for name in names if all(name in found.figures for found in report.results)]
    columns = [*names, *dict.fromkeys(name for row in published.values() for name in row if name not in names)]
    return {
        "colours": COLOURS,
        "lines": [_line(name, [found.figures[name] for found in report.results]) for name in everywhere],
        "columns": ["model", *(name.replace("_", " ") for name in columns)],
        "rows": [
            *(_row(report, short[found.name], found.figures, columns, "") for found in report.results),
            *(_row(report, model, figures, columns, "soft") for model, figures in published.items()),
        ],
    }


def _line(name: str, values: Sequence[float]) -> dict[str, Any]:
    """A figure of all models on one axis, from 0 to 1 where it fits."""
    low, high = min(0.0, *values), max(1.0, *values)
    places = [f"{2 + 96 * (value - low) / (high - low):.1f}%" for value in values]
    ends = {"first": values[0], "last": values[-1], "gain": values[-1] - values[0]}
    return {"name": name.replace("_", " "), "places": places, **ends}


def _row(report: Report, model: str, figures: Figures, columns: Sequence[str], kind: str) -> Row:
    return [model, *(figure(report, figures, name) for name in columns)], [kind, *[""] * len(columns)]


def _samples(report: Report) -> dict[str, Any]:
    """Prompts at even distances; and those on which the last model lost most, so that its weaknesses are seen too."""
    prompts, gains = report.exam.prompts, _gains(report)
    shown = spread(prompts, SHOWN)
    worse = sorted((prompt for prompt in prompts if gains[prompt.index] < 0), key=lambda p: gains[p.index])
    few = len(shown) < len(prompts)
    return {
        "choice": f"{len(shown)} prompts at even distances, nothing picked." if few else "All prompts.",
        "samples": _cards(report, shown, gains),
        "losses": _cards(report, worse[:LOSSES], gains),
        "worse": len(worse),
        "prompts": len(prompts),
        "each": report.exam.samples_per_prompt,
    }


def _gains(report: Report) -> dict[int, float]:
    """By row: the last model minus the first, in the metric's mean over a prompt's samples; 0 where it is not known."""
    exam, (first, *_, last) = report.exam, [*report.records.values()] * 2
    values = prompt_gains(exam.prompts, exam.samples_per_prompt, report.benchmark.metric, first, last)
    return {prompt.index: float(gain) for prompt, gain in zip(exam.prompts, np.nan_to_num(values), strict=True)}


def _cards(report: Report, prompts: Sequence[Prompt], gains: Mapping[int, float]) -> list[dict[str, Any]]:
    firsts = {name: {r.row: r for r in records if r.sample == 0} for name, records in report.records.items()}
    short = labels(report)
    return [
        {
            "prompt": prompt.text,
            "gain": gains[prompt.index],
            "sides": [
                {
                    "label": short[name],
                    "record": rows[prompt.index],
                    "sample": sample(report.folder / name, rows[prompt.index].shown),
                }
                for name, rows in firsts.items()
            ],
        }
        for prompt in prompts
    ]
