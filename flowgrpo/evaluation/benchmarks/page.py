"""report.html of an evaluation: one file that opens offline."""

import html
from collections.abc import Sequence

import numpy as np

from flowgrpo.core.whole import write_text
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.records import Record
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.benchmarks.benchmark import Figures
from flowgrpo.evaluation.benchmarks.comparison import prompt_gains
from flowgrpo.evaluation.benchmarks.report import Report, evidence, figure, figure_names, versions
from flowgrpo.pages.marks import colour, number, score_mark, signed
from flowgrpo.pages.page import PAGE, STYLE
from flowgrpo.pages.pictures import sample
from flowgrpo.pages.tables import TABLE_STYLE, html_row, html_table

SHOWN, LOSSES = 24, 12
SIDE, LONG_SIDE, SHORT = 118, 240, 40
"""Pixels that a sample is wide at least, if it is long text or else; and characters that are not long."""
WORDS = {"better": "good", "worse": "bad", "no difference shown": "open"}
COLOURS = 4
EVAL_STYLE = """
h1.alone { color: var(--fg); }
.tests { list-style: none; margin: 0; padding: 0; }
.tests li { display: grid; grid-template-columns: 2fr 3fr; gap: 4px 24px; padding: 12px 0; border-top: 1px solid var(--line); }
.tests b { color: inherit; } .tests span { color: var(--fg); font-variant-numeric: tabular-nums; }
.dot { stroke: none; } .dot.c0 { fill: var(--old); } .dot.c1 { fill: var(--new); } .dot.c2 { fill: var(--s1); }
.dot.c3 { fill: var(--s2); } .key.c0 { background: var(--old); } .key.c2 { background: var(--s1); }
.key.c3 { background: var(--s2); } .keys span { white-space: nowrap; }
td.soft, td.soft ~ td { color: var(--soft); font-weight: 400; }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--card-width)), 1fr)); margin-top: 20px; }
.pair { grid-template-columns: repeat(var(--models), 1fr); } .pair small { overflow-wrap: anywhere; }
.pair pre { max-height: 240px; overflow: auto; padding: 10px 0; font-size: 13px; }
.card figcaption { white-space: pre-line; } .tags + div { margin-top: 28px; }
.error { color: var(--bad); font-size: 13px; overflow-wrap: anywhere; } .about { margin-top: 72px; }
.about p { max-width: 76ch; } .about pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 640px) { .tests li { grid-template-columns: 1fr; } }
"""


def write_page(report: Report) -> None:
    sections = [part(report) for part in (_header, _facts, _tests, _figures, _samples, _losses, _about)]
    style = STYLE + TABLE_STYLE + EVAL_STYLE + _sizes(report)
    page = PAGE.format(title=html.escape(f"{report.name}, evaluated"), style=style, body="\n".join(filter(None, sections)))
    write_text(report.folder / "report.html", page)


def _sizes(report: Report) -> str:
    """Pictures and short texts stand close, long texts need room."""
    longest = max(len(record.shown.get("text", "")) for records in report.records.values() for record in records)
    models, side = len(report.results), SIDE if longest <= SHORT else LONG_SIDE
    return f":root {{ --models: {models}; --card-width: {side * max(models, 2)}px; }}"


def labels(report: Report) -> dict[str, str]:
    """Models by name, each with a short one: without its run, where that is not needed to tell it from others."""
    names = [found.name for found in report.results]
    short = [name[max(name.find("checkpoint-"), 0) :] for name in names]
    return dict(zip(names, short if len(set(short)) == len(short) else names, strict=True))


def _header(report: Report) -> str:
    first, last = report.results[0], report.results[-1]
    benchmark = report.benchmark
    top = f"<p class=eyebrow>flowgrpo eval {html.escape(report.name)}: {html.escape(benchmark.summary)}</p>"
    top += f"<p class=metric>{html.escape(benchmark.metric)} on {last.prompts} prompts</p>"
    if first is last:
        low, high = (number(end, report.rate) for end in first.ci95)
        words = f"<p class='gain open'><span>95 % interval over prompts {low} to {high}</span></p>"
        return f"<header>{top}<h1 class=alone>{number(first.mean, report.rate)}</h1>{words}</header>"
    found = next(d for d in report.differences if d.checkpoint == last.name)
    low, high = (signed(end, report.rate) for end in found.ci95)
    numbers = f"<h1><span>{number(first.mean, report.rate)}</span> <i>&rarr;</i> {number(last.mean, report.rate)}</h1>"
    words = f"{found.word}: 95 % interval {low} to {high}, p = {found.p:.4f}."
    gain = f"<b>{signed(found.mean, report.rate)}</b> <span>{html.escape(labels(report)[last.name])} {words}</span>"
    return f"<header>{top}{numbers}<p class='gain {WORDS[found.word]}'>{gain}</p></header>"


def _facts(report: Report) -> str:
    exam = report.exam
    failed = sum(count for found in report.results for count in found.failed.values())
    facts = {
        "prompts": f"{len(exam.prompts):,}",
        "samples of each": f"{exam.samples_per_prompt}",
        "models": f"{len(report.results)}",
        "steps": f"{exam.steps}",
        "seed": f"{exam.seed}",
        **({"scores that failed": f"{failed:,}"} if failed else {}),
    }
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{fact}</dd></div>' for name, fact in facts.items())}</dl>"


def _tests(report: Report) -> str:
    if not report.differences:
        return ""
    short = labels(report)
    rows = "".join(
        f"<li class={WORDS[found.word]}><b>{html.escape(f'{short[found.checkpoint]} in {found.reward}')}: {found.word}</b>"
        f"<span>{html.escape(evidence(report, found))}.</span></li>"
        for found in report.differences
    )
    alone = " Each test stands alone: of twenty that compare equals, one is expected to show a difference."
    return (
        "<h2>Is it better?</h2><p>The same prompts and seeds. Scores are averaged over the samples of a prompt, then compared "
        "prompt by prompt: bootstrap interval, and two-sided sign-flip permutation test at the level 0.05."
        f"{alone if len(report.differences) > 1 else ''}</p><ul class=tests>{rows}</ul>"
    )


def _figures(report: Report) -> str:
    names = figure_names(report)
    everywhere = [name for name in names if all(name in found.figures for found in report.results)]
    return f"<h2>Figures</h2>{_lines(report, everywhere) if report.differences else ''}{_table(report, names)}"


def _lines(report: Report, names: Sequence[str]) -> str:
    shown = enumerate(labels(report).values())
    keys = [f"<span><span class='key c{i % COLOURS}'></span>{html.escape(name)}</span>" for i, name in shown]
    rows = "".join(_line(report, name, [found.figures[name] for found in report.results]) for name in names)
    return f"<p class=keys>{' '.join(keys)}</p><div class=tags>{rows}</div>"


def _line(report: Report, name: str, values: Sequence[float]) -> str:
    """A figure of all models on one axis, from 0 to 1 where it fits."""
    low, high = min(0.0, *values), max(1.0, *values)
    places = [f"{2 + 96 * (value - low) / (high - low):.1f}%" for value in values]
    gain = values[-1] - values[0]
    dots = "".join(f"<circle class='dot c{i % COLOURS}' cx={place} cy=10 r={5 + (i > 0)} />" for i, place in enumerate(places))
    return (
        f"<div><b>{html.escape(name.replace('_', ' '))}</b>"
        "<svg height=20 aria-hidden=true><line class=grid x1=2% x2=98% y1=10 y2=10 />"
        f"<line class={colour(gain)} x1={places[0]} x2={places[-1]} y1=10 y2=10 />{dots}</svg>"
        f"<span>{number(values[0], report.rate)} &rarr; {number(values[-1], report.rate)}</span>"
        f"<span class={colour(gain)}>{signed(gain, report.rate)}</span></div>"
    )


def _table(report: Report, names: Sequence[str]) -> str:
    """Models by figures; published ones below, in grey."""
    published = report.benchmark.published
    columns = [*names, *dict.fromkeys(name for row in published.values() for name in row if name not in names)]
    short = labels(report)
    rows = [_row(report, short[found.name], found.figures, columns, "td") for found in report.results]
    rows += [_row(report, model, figures, columns, "td class=soft") for model, figures in published.items()]
    note = "<p>Grey: published, by others with their own settings.</p>" if published else ""
    return f"<div>{html_table(['model', *(name.replace('_', ' ') for name in columns)], rows)}</div>{note}"


def _row(report: Report, model: str, figures: Figures, columns: Sequence[str], first: str) -> str:
    cells = [figure(report, figures, name) for name in columns]
    return html_row([model, *cells], [first, *["td"] * len(cells)])


def _samples(report: Report) -> str:
    prompts = report.exam.prompts
    shown = spread(prompts, SHOWN)
    words = f"{len(shown)} prompts at even distances, nothing picked." if len(shown) < len(prompts) else "All prompts."
    return f"<h2>The same prompts and seeds</h2><p>{words} The first sample of each.</p>{_cards(report, shown)}"


def _losses(report: Report) -> str:
    """The prompts on which the last model lost most, so that its weaknesses are seen too."""
    gains = _gains(report)
    worse = sorted((prompt for prompt in report.exam.prompts if gains[prompt.index] < 0), key=lambda p: gains[p.index])
    if not worse:
        return ""
    words = f"{len(worse)} of {len(gains)} prompts; the greatest losses first."
    return f"<h2>What got worse</h2><p>{words}</p>{_cards(report, worse[:LOSSES])}"


def _gains(report: Report) -> dict[int, float]:
    """By row: the last model minus the first, in the metric's mean over a prompt's samples; 0 where it is not known."""
    exam, (first, *_, last) = report.exam, [*report.records.values()] * 2
    values = prompt_gains(exam.prompts, exam.samples_per_prompt, report.benchmark.metric, first, last)
    return {prompt.index: float(gain) for prompt, gain in zip(exam.prompts, np.nan_to_num(values), strict=True)}


def _cards(report: Report, prompts: Sequence[Prompt]) -> str:
    gains = _gains(report)
    firsts = {name: {r.row: r for r in records if r.sample == 0} for name, records in report.records.items()}
    short = labels(report)
    cards = []
    for prompt in prompts:
        sides = "".join(_side(report, name, short[name], rows[prompt.index]) for name, rows in firsts.items())
        cards.append(_card(report, prompt, gains[prompt.index], sides))
    return f"<div class=cards>{''.join(cards)}</div>"


def _card(report: Report, prompt: Prompt, gain: float, sides: str) -> str:
    samples = report.exam.samples_per_prompt
    remark = f"<small>{signed(gain, report.rate)} over its {samples} samples</small>" if gain and samples > 1 else ""
    return (
        f"<figure class='card {colour(gain)}'><div class=pair>{sides}</div>"
        f"<figcaption>{html.escape(prompt.text)} {remark}</figcaption></figure>"
    )


def _side(report: Report, name: str, short: str, record: Record) -> str:
    scores = "".join(score_mark(label, value) for label, value in record.scores.items())
    errors = "".join(f"<div class=error>{html.escape(error)}</div>" for error in record.errors.values())
    made = sample(report.folder / name, record.shown, f"{record.prompt}, {short}")
    return f"<div>{made}<small>{html.escape(short)}</small>{scores}{errors}</div>"


def _about(report: Report) -> str:
    benchmark = report.benchmark
    facts = ", ".join(f"{name} {number}" for name, number in versions().items())
    return (
        "<section class=about><h2>How to repeat it</h2>"
        f"<pre>{html.escape(report.command)}</pre><p>{html.escape(facts)}; on {html.escape(report.device)}.</p>"
        f"<p>{html.escape(report.name)}: {html.escape(benchmark.source)}. {html.escape(benchmark.licence)}.</p></section>"
    )
