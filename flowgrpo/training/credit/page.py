"""A measurement of credit as Markdown, JSON and plot."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from flowgrpo.core.whole import write_text
from flowgrpo.pages.bars import Bar, Bars, bar_figure
from flowgrpo.pages.tables import markdown_table
from flowgrpo.training.credit.diagnostics import Quality
from flowgrpo.training.credit.result import Credit, Row, number, said
from flowgrpo.training.credit.slope import Slope

NONE = "\N{EM DASH}"


def write_credit(credit: Credit, folder: Path) -> None:
    """Write credit.md, credit.json and credit.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in {"md": markdown(credit) + "\n", "json": as_json(credit), "svg": plot(credit)}.items():
        write_text(folder / f"credit.{suffix}", text)


def as_json(credit: Credit) -> str:
    """Numbers without a limit, or that are none, are null."""
    return json.dumps({**_plain(asdict(credit)), "sentence": credit.sentence, "verdict": credit.verdict})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def markdown(credit: Credit) -> str:
    """Tables whose columns also line up in a terminal, what their numbers mean, and the sentence at the end."""
    parts = [markdown_table([SCHEMES, *(_cells(row) for row in credit.rows)])]
    if any(row.along for row in credit.rows):
        parts.append(markdown_table([CHECK, *(_check_cells(row) for row in credit.rows)]))
    if credit.steps:
        steps = [
            [
                f"{s.step}",
                NONE if s.deviation is None else number(s.deviation),
                *(f"{x:.2f}" for x in (s.correlation, s.baseline, s.variance_ratio, s.prediction)),
            ]
            for s in credit.steps
        ]
        parts.append(markdown_table([STEPS, *steps]))
    if credit.completions:
        parts.append(completions_table(credit.completions))
    parts.append("\n".join(f"- {note}" for note in _notes(credit)))
    return "\n\n".join([*parts, " ".join(filter(None, [credit.sentence, credit.verdict]))])


SCHEMES = [
    "scheme",
    "cos² per 10⁶ evaluations",
    "factor",
    "cosine",
    "relative error",
    "agreement",
    "cos² per second",
    "factor per second",
    "evaluations",
    "seconds",
    "silent groups",
    "part in reference",
]
CHECK = [
    "scheme",
    "factor by the check",
    "slope",
    "bend",
    "factor, as AdamW scales",
    "slope, as AdamW scales",
    "bend, as AdamW scales",
]
STEPS = [
    "step",
    "deviation within a state",
    "correlation of values before and after",
    "best baseline",
    "variance, final reward / gain",
    "correlation of a one-step prediction",
]


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        said(row.per_million),
        said(row.factor),
        said(row.cosine),
        number(row.error.value),
        NONE if row.agreement is None else f"{row.agreement:.2f}",
        said(row.per_second),
        said(row.factor_per_second),
        f"{row.evaluations:,.0f}",
        f"{row.seconds:.2f}",
        f"{row.silent:.0%}",
        f"{row.share:.0%}",
    ]


def _check_cells(row: Row) -> list[str]:
    factors = [NONE if one is None else said(one) for one in (row.found, row.found_scaled)]
    return [row.name, factors[0], *_slope(row.along), factors[1], *_slope(row.along_scaled)]


def _slope(slope: Slope | None) -> list[str]:
    if slope is None:
        return [NONE, NONE]
    pairs = (slope.change, slope.change_interval), (slope.bend, slope.bend_interval)
    return [f"{change:+.3f}" + (f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else "") for change, ends in pairs]


def completions_table(rows: list[Quality]) -> str:
    heading = ["completion", "correlation of gains", "of centred gains", "network evaluations per sample", "pictures per sample"]
    cells = [
        [row.completion, f"{row.gains:.2f}", f"{row.centred:.2f}", f"{row.network_evaluations:.1f}", f"{row.pictures:.1f}"]
        for row in rows
    ]
    return markdown_table([heading, *cells])


def _notes(credit: Credit) -> Iterator[str]:
    yield (
        f"{credit.model} at {credit.point}: {credit.updates} independent updates of each scheme, {credit.prompts} prompts, "
        f"{credit.seconds:,.0f} s."
    )
    yield (
        f"The right way is {credit.reference}; no product of gradients has two groups of one update or one prompt in it. "
        f"Cosine and error are at {credit.evaluations:,.0f} network evaluations, as an optimizer step of {credit.baseline} has; "
        f"a factor is over {credit.baseline}. Costs are of an optimizer step."
    )
    yield "Brackets are 95 % intervals, bootstrapped over prompts. Each stands alone: the best of many looks better than it is."
    if credit.sketch_error:
        yield f"Gradients are sketched: a cosine of two of them errs by {credit.sketch_error:.1g}, which no bracket holds."
    if credit.length:
        yield (
            f"The check moves the weights by {credit.length:.3g} ({credit.scaled_length:.3g} as AdamW scales) along independent "
            f"mean gradients of each scheme, ahead and behind, and asks {credit.sampler} on {credit.check_prompts} other "
            "prompts, with the same noise. Slope is half the difference in mean reward, bend what both have in common: a bend as "
            "large as the slope means that so long a step gains nothing. Its factor is of the slopes' squares over what a step "
            "has of length and cost: no reference is in it. Intervals are over the mean gradients, Student's of slopes and bends."
        )
    yield from credit.notes
    yield from (f"Left out: {one.name}: {one.reason}." for one in credit.left_out)


def plot(credit: Credit) -> str:
    """cos^2 per million evaluations by scheme, and by step the deviation within a state."""
    schemes = [
        Bar(
            row.name,
            row.per_million.value,
            row.per_million.interval,
            said(row.per_million),
            1 + (row.name == credit.baseline),
        )
        for row in sorted(credit.rows, key=lambda row: -row.per_million.value)
    ]
    panels = [
        Bars(f"{credit.model}: what points the right way", "cos² with the reference, per million network evaluations", schemes)
    ]
    if slopes := [(row, row.along) for row in credit.rows if row.along]:
        bars = [
            Bar(row.name, slope.change, slope.change_interval, f"{slope.change:+.3f}", 1 + (row.name == credit.baseline))
            for row, slope in sorted(slopes, key=lambda pair: -pair[1].change)
        ]
        panels.append(Bars("the check: along the mean gradient", f"change of the mean reward, step of {credit.length:.3g}", bars))
    if credit.steps:
        bars = [
            Bar(f"step {step.step}", step.deviation, None, number(step.deviation), 3) for step in credit.steps if step.deviation
        ]
        panels.append(Bars("what the noise of a step changes", "deviation of the final reward within a state", bars))
    return bar_figure(panels)
