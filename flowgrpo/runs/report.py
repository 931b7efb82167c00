"""report.html: a training run as one file that opens offline. It reads the run folder and nothing else."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowgrpo.config.tree import parse_yaml
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import read_json, write_text
from flowgrpo.data.records import Record
from flowgrpo.pages.line_plots import Point, plot
from flowgrpo.pages.marks import colour, number, score_mark, signed
from flowgrpo.pages.page import PAGE, STYLE, Page
from flowgrpo.pages.pictures import sample
from flowgrpo.runs.run import Row, Run
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
SHOWN = 12


def write_report(run: Run) -> Path:
    """Write report.html. What the run folder lacks is left out; only metrics.jsonl is required."""
    if not (run.path / "metrics.jsonl").is_file():
        raise UserError(f"{run} holds no metrics.jsonl, so there is nothing to report")
    report = run.path / "report.html"
    write_text(report, report_page(run))
    return report


def curves_page(run: Run) -> Page:
    return Page(run.name, _curves(run.metrics, run.held_out, _watched(run)))


def report_page(run: Run) -> str:
    metrics, held_out, tree, index = run.metrics, run.held_out, run.tree, _index(run)
    metric = held_out["metric"] if held_out else None
    watched = _watched(run)
    rate = _is_rate(metric, index)
    sections = [
        _rehearsal(run),
        _header(run.name, held_out, rate),
        _facts(metrics),
        "".join(f"<p>{html.escape(note)}</p>" for note in run.notes),
        _by_tag(held_out["by_tag"], rate) if held_out and held_out.get("by_tag") else "",
        _pictures(run.path / "samples", index, metric) if index else "",
        _sentinels(run, metrics, watched) if watched or run.alarms else "",
        _curves(metrics, held_out, watched),
        _schedule(run),
        draw_tree(run.path, tree) if tree and tree["nodes"] else "",
        _config(run),
    ]
    return PAGE.format(title=html.escape(run.name), style=STYLE, body="\n".join(filter(None, sections)))


def _index(run: Run) -> list[Row]:
    """The held-out prompts of which samples were kept, with what was made before and after; paths relative to samples/."""
    before, after = ({record.row: record for record in run.records(when) if record.shown} for when in ("before", "after"))
    return [
        {
            "prompt": (before.get(row) or after[row]).prompt,
            "tag": (before.get(row) or after[row]).metadata.get("tag"),
            **{when: _shown(records[row], when) for when, records in (("before", before), ("after", after)) if row in records},
        }
        for row in dict.fromkeys([*before, *after])
    ]


def _shown(record: Record, when: str) -> Row:
    files = {kind: content if kind == "text" else f"{when}/{content}" for kind, content in record.shown.items()}
    return {**files, "scores": record.scores}


def _rehearsal(run: Run) -> str:
    """What stands in for what, before any number."""
    said = [html.escape(sentence) for sentence in _settings(run).get("rehearsal") or []]
    if not said:
        return ""
    return f"<aside class=rehearsal><b>{said[0]}</b><ul>{''.join(f'<li>{sentence}</li>' for sentence in said[1:])}</ul></aside>"


def _settings(run: Run) -> Row:
    return parse_yaml(run.config_text) or {}


def _config(run: Run) -> str:
    if not run.config_text:
        return ""
    return f"<details class=config><summary>Resolved config</summary><pre>{html.escape(run.config_text)}</pre></details>"


def _is_rate(metric: str | None, index: Sequence[Row]) -> bool:
    """Whether every picture's score is 0 or 1, so that a mean is a share of prompts."""
    sides = [row[when] for row in index for when in ("before", "after") if row.get(when)]
    scores = [side["scores"][metric] for side in sides if metric in side["scores"]]
    return bool(scores) and all(score in (0, 1) for score in scores)


def _header(name: str, held_out: Row | None, rate: bool) -> str:
    if held_out is None:
        return f"<header><p class=eyebrow>flowgrpo run</p><h1 class=name>{html.escape(name)}</h1></header>"
    before, after, (low, high) = held_out["before"], held_out["after"], held_out["ci95"]
    gain, verdict = after - before, "good" if low > 0 else "bad" if high < 0 else "open"
    remark = " It contains zero: no proven change." if verdict == "open" else ""
    return (
        f"<header><p class=eyebrow>{html.escape(name)}</p>"
        f"<p class=metric>{html.escape(held_out['metric'])} on {held_out['n']} held-out prompts</p>"
        f"<h1><span>{number(before, rate)}</span> <i>&rarr;</i> {number(after, rate)}</h1>"
        f"<p class='gain {verdict}'><b>{signed(gain, rate)}</b> "
        f"<span>95 % interval {signed(low, rate)} to {signed(high, rate)}.{remark}</span></p></header>"
    )


def _facts(metrics: Sequence[Row]) -> str:
    seconds = sum(_numbers([v for row in metrics for k, v in row.items() if k.startswith("seconds/")]))
    calls = sum(_numbers([row.get("network_evaluations") for row in metrics]))
    facts = {"updates": f"{sum('reward' in row for row in metrics)}"}
    facts |= {"training": _duration(seconds)} if seconds else {}
    facts |= {"network evaluations": f"{calls:,.0f}"} if calls else {}
    cells = "".join(f"<div><dt>{label}</dt><dd>{fact}</dd></div>" for label, fact in facts.items())
    return f"<dl>{cells}</dl>"


def _numbers(values: Sequence[Any]) -> list[float]:
    return [v for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _duration(seconds: float) -> str:
    sizes = ((7200, 3600, ".1f", "h"), (120, 60, ".0f", "min"), (0, 1, ".0f", "s"))
    return next(f"{seconds / size:{form}} {unit}" for least, size, form, unit in sizes if seconds >= least)


def _by_tag(tags: Mapping[str, Row], rate: bool) -> str:
    values = [row[when] for row in tags.values() for when in ("before", "after")]
    low, high = (0.0, 1.0) if rate else (min(0.0, *values), max(values))
    rows = "".join(_tag(tag, row, rate, low, high) for tag, row in tags.items())
    key = "<p><span class='key before'></span>before <span class='key after'></span>after</p>"
    return f"<h2>By task</h2>{key}<div class=tags>{rows}</div>"


def _tag(tag: str, row: Row, rate: bool, low: float, high: float) -> str:
    gain = row["after"] - row["before"]
    a, b = (f"{2 + 96 * (row[when] - low) / ((high - low) or 1.0):.1f}%" for when in ("before", "after"))
    return (
        f"<div><b>{html.escape(tag.replace('_', ' '))} <small>{row['n']} prompts</small></b>"
        "<svg height=20 aria-hidden=true><line class=grid x1=2% x2=98% y1=10 y2=10 />"
        f"<line class={colour(gain)} x1={a} x2={b} y1=10 y2=10 /><circle class=before cx={a} cy=10 r=5 />"
        f"<circle class=after cx={b} cy=10 r=6 /></svg>"
        f"<span>{number(row['before'], rate)} &rarr; {number(row['after'], rate)}</span>"
        f"<span class={colour(gain)}>{signed(gain, rate)}</span></div>"
    )


def _pictures(folder: Path, index: Sequence[Row], metric: str | None) -> str:
    changes = [_difference(row, metric) for row in index]
    order = sorted(range(len(index)), key=lambda i: -abs(changes[i]))
    cards = [_card(folder, index[i], changes[i]) for i in order]
    better, worse = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    counts = f"<p>Same seeds. {better} of {len(index)} better, {worse} worse; these come first.</p>"
    first, rest = (f"<div class=cards>{''.join(part)}</div>" for part in (cards[:SHOWN], cards[SHOWN:]))
    more = f"<details><summary>{len(cards) - SHOWN} more</summary>{rest}</details>" if cards[SHOWN:] else ""
    return f"<h2>The same prompts, before and after</h2>{counts}{first}{more}"


def _difference(row: Row, metric: str | None) -> float:
    """After minus before, in the metric or else summed over all scores."""
    before, after = ((row.get(when) or {}).get("scores", {}) for when in ("before", "after"))
    shared = before.keys() & after.keys()
    return float(sum(after[label] - before[label] for label in (shared & {metric} or shared)))


def _card(folder: Path, row: Row, change: float) -> str:
    sides = "".join(_side(folder, when, row) for when in ("before", "after") if row.get(when))
    tag = f"<small>{html.escape(row['tag'].replace('_', ' '))}</small>" if row.get("tag") else ""
    return (
        f"<figure class='card {colour(change)}'><div class=pair>{sides}</div>"
        f"<figcaption>{html.escape(row['prompt'])} {tag}</figcaption></figure>"
    )


def _side(folder: Path, when: str, row: Row) -> str:
    side = row[when]
    scores = "".join(score_mark(label, value) for label, value in side["scores"].items())
    made = sample(folder, side, f"{row['prompt']}, {when} training")
    return f"<div>{made}<small>{when}</small>{scores}</div>"


def _curves(metrics: Sequence[Row], held_out: Row | None, elsewhere: Sequence[str]) -> str:
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
    key = (
        "<span class='key after'></span>held-out "
        "<span class='key between'></span>held-out during training, perhaps on fewer prompts"
    )
    words = "Faint: single updates; strong: moving average (long runs)."
    intro = f"<p>{words} {key if any(marks.values()) else ''}</p>"
    return f"<h2>Training</h2>{intro}<div class=plots>{''.join(plots)}</div>" if any(plots) else ""


def _watched(run: Run) -> list[str]:
    """The labels of the rewards that sentinels watch."""
    sentinels = _settings(run).get("sentinels") or {}
    return [*sentinels.get("panel", []), *sentinels.get("drift", {})]


def _sentinels(run: Run, metrics: Sequence[Row], watched: Sequence[str]) -> str:
    """Alarms, and the curves of what is watched."""
    said = [f"<li class=bad>Update {alarm['update']}: {html.escape(alarm['sentence'])}.</li>" for alarm in run.alarms.values()]
    verdict = f"<ul>{''.join(said)}</ul>" if said else "<p class=good>No alarm.</p>"
    plots = "".join(plot(label, {"": _series(metrics, f"reward/{label}")}, []) for label in watched)
    words = "Watched and never trained on: what a hacked reward would change. What is trained on comes next."
    return f"<h2>Sentinels</h2><p>{words}</p>{verdict}<div class=plots>{plots}</div>"


def _schedule(run: Run) -> str:
    """What the last checkpoint sets the steps of a rollout to, if that was learned; of averaged weights where there are any."""
    learned = [folder / "schedule.json" for folder in run.checkpoints if (folder / "schedule.json").is_file()]
    if not learned:
        return ""
    averaged = learned[-1].parent / "ema" / "schedule.json"
    settings = read_json(averaged if averaged.is_file() else learned[-1])
    plots = "".join(
        plot(
            name.replace("_", " "),
            {kind.replace("_", "-"): list(enumerate(row)) for kind, row in lines.items()},
            [],
            "step",
        )
        for name, lines in settings.items()
    )
    return f"<h2>Learned schedule</h2><p>What each step is set to.</p><div class=plots>{plots}</div>"


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
