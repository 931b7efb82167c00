"""report.html: a training run as one file that opens offline. It reads the run folder and nothing else."""

import html
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.errors import UserError
from flowgrpo.runs.page import PAGE, STYLE
from flowgrpo.runs.pictures import data_address, picture

Row = dict[str, Any]
Point = tuple[float, float]
HEALTH = {
    "advantage/zero_variance_groups": "groups without variance",
    "ratio/clip_fraction": "clipped share",
    "ratio/log_abs_max": "largest |log-ratio|",
    "kl": "KL to the reference",
    "grad_norm": "gradient norm",
}
SHOWN = 12
TEXT = 60
THUMBNAIL, SMALL_THUMBNAIL, TREE_ROW, TREE_TOP, TREE_LEFT = 44, 28, 54, 34, 20


def write_report(run: Path) -> Path:
    """Write `run/report.html`. What the run folder lacks is left out; only metrics.jsonl is required."""
    metrics = _metrics(run / "metrics.jsonl")
    held_out, tree = _json(run / "held_out.json"), _json(run / "tree.json")
    index = _json(run / "samples" / "index.json") or []
    metric = held_out["metric"] if held_out else None
    rate = _is_rate(metric, index)
    name = run.resolve().name
    sections = [
        _header(name, held_out, rate),
        _facts(metrics),
        _by_tag(held_out["by_tag"], rate) if held_out and held_out.get("by_tag") else "",
        _pictures(run / "samples", index, metric) if index else "",
        _curves(metrics, held_out),
        _schedule(run),
        _tree(run, tree) if tree and tree["nodes"] else "",
        _config(run / "config.yaml"),
    ]
    report = run / "report.html"
    page = PAGE.format(title=html.escape(name), style=STYLE, body="\n".join(filter(None, sections)))
    report.write_text(page, encoding="utf-8")
    return report


def _metrics(path: Path) -> list[Row]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no metrics.jsonl, so there is nothing to report.")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} has a line that is not JSON ({error}); remove that line.") from error


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _config(path: Path) -> str:
    if not path.is_file():
        return ""
    text = html.escape(path.read_text(encoding="utf-8"))
    return f"<details class=config><summary>Resolved config</summary><pre>{text}</pre></details>"


def _is_rate(metric: str | None, index: Sequence[Row]) -> bool:
    """Whether every picture's score is 0 or 1, so that a mean is a share of prompts."""
    sides = [row[when] for row in index for when in ("before", "after") if row.get(when)]
    scores = [side["scores"][metric] for side in sides if metric in side["scores"]]
    return bool(scores) and all(score in (0, 1) for score in scores)


def _value(value: float, rate: bool) -> str:
    return f"{value:.1%}" if rate else f"{value:.3f}"


def _change(value: float, rate: bool) -> str:
    return (f"{value:+.1%}" if rate else f"{value:+.3f}").replace("-", "\N{MINUS SIGN}")


def _header(name: str, held_out: Row | None, rate: bool) -> str:
    if held_out is None:
        return f"<header><p class=eyebrow>flowgrpo run</p><h1 class=name>{html.escape(name)}</h1></header>"
    before, after, (low, high) = held_out["before"], held_out["after"], held_out["ci95"]
    gain, verdict = after - before, "good" if low > 0 else "bad" if high < 0 else "open"
    remark = " It contains zero: no proven change." if verdict == "open" else ""
    return (
        f"<header><p class=eyebrow>{html.escape(name)}</p>"
        f"<p class=metric>{html.escape(held_out['metric'])} on {held_out['n']} held-out prompts</p>"
        f"<h1><span>{_value(before, rate)}</span> <i>&rarr;</i> {_value(after, rate)}</h1>"
        f"<p class='gain {verdict}'><b>{_change(gain, rate)}</b> "
        f"<span>95 % interval {_change(low, rate)} to {_change(high, rate)}.{remark}</span></p></header>"
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
        f"<line class={_sign(gain)} x1={a} x2={b} y1=10 y2=10 /><circle class=before cx={a} cy=10 r=5 />"
        f"<circle class=after cx={b} cy=10 r=6 /></svg>"
        f"<span>{_value(row['before'], rate)} &rarr; {_value(row['after'], rate)}</span>"
        f"<span class={_sign(gain)}>{_change(gain, rate)}</span></div>"
    )


def _sign(change: float) -> str:
    return "good" if change > 0 else "bad" if change < 0 else "open"


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
        f"<figure class='card {_sign(change)}'><div class=pair>{sides}</div>"
        f"<figcaption>{html.escape(row['prompt'])} {tag}</figcaption></figure>"
    )


def _side(folder: Path, when: str, row: Row) -> str:
    side = row[when]
    scores = "".join(_score(label, value) for label, value in side["scores"].items())
    if "image" in side:
        sample = picture(folder / side["image"], f"{row['prompt']}, {when} training")
    else:
        sample = f"<pre class=text>{html.escape(side['text'])}</pre>"
    return f"<div>{sample}<small>{when}</small>{scores}</div>"


def _score(label: str, value: float) -> str:
    label = html.escape(label)
    if value in (0, 1):
        mark, kind, words = ("&#10003;", "good", "met") if value else ("&#10007;", "bad", "missed")
        return f"<span class='score {kind}' title='{label} {words}'>{mark} {label}</span>"
    return f"<span class=score>{value:.2f} {label}</span>"


def _curves(metrics: Sequence[Row], held_out: Row | None) -> str:
    keys = list(dict.fromkeys(k for row in metrics for k in row))
    names = dict.fromkeys(k.partition("/")[2] for k in keys if k.startswith(("reward/", "held_out/")))
    marks = {name: _marks(metrics, name, held_out) for name in names}
    phases = [k for k in keys if k.startswith("seconds/")]
    plots = [
        *(_plot(name, {"": _series(metrics, f"reward/{name}")}, marks[name]) for name in names),
        _plot("weighted reward", {"": _series(metrics, "reward")}, []),
        *(_plot(title, {"": _series(metrics, key)}, []) for key, title in HEALTH.items()),
        _plot("seconds", {k.partition("/")[2]: _series(metrics, k) for k in phases}, []),
    ]
    key = (
        "<span class='key after'></span>held-out "
        "<span class='key between'></span>held-out during training, perhaps on fewer prompts"
    )
    words = "Faint: single updates; strong: moving average (long runs)."
    intro = f"<p>{words} {key if any(marks.values()) else ''}</p>"
    return f"<h2>Training</h2>{intro}<div class=plots>{''.join(plots)}</div>" if any(plots) else ""


def _schedule(run: Path) -> str:
    """What the last checkpoint sets the steps of a rollout to, if that was learned; of averaged weights where there are any."""
    found = sorted(run.glob("checkpoint-*/schedule.json"))
    if not found:
        return ""
    averaged = found[-1].parent / "ema" / "schedule.json"
    settings = _json(averaged if averaged.is_file() else found[-1])
    plots = "".join(
        _plot(
            name.replace("_", " "),
            {kind.replace("_", "-"): list(enumerate(row)) for kind, row in lines.items()},
            [],
            "step",
        )
        for name, lines in settings.items()
    )
    return f"<h2>Learned schedule</h2><p>What each step is set to.</p><div class=plots>{plots}</div>"


def _series(metrics: Sequence[Row], key: str) -> list[Point]:
    return [(row["update"], row[key]) for row in metrics if _numbers([row.get(key)])]


def _marks(metrics: Sequence[Row], label: str, held_out: Row | None) -> list[tuple[Point, str]]:
    marks = [(point, "between") for point in _series(metrics, f"held_out/{label}")]
    if held_out and held_out["metric"] == label and metrics:
        ends = (0, held_out["before"]), (max(row["update"] for row in metrics), held_out["after"])
        marks += [(end, "after") for end in ends]
    return marks


@dataclass(frozen=True)
class Frame:
    """From updates and values to the coordinates of a plot of 340 x 180."""

    right: float
    ticks: Sequence[float]

    def place(self, point: Point) -> tuple[float, float]:
        low, high = self.ticks[0], self.ticks[-1]
        return 50 + 282 * point[0] / self.right, 10 + 144 * (high - point[1]) / (high - low)

    def line(self, points: Sequence[Point]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.place(p)) for p in points)


def _plot(title: str, series: Mapping[str, list[Point]], marks: Sequence[tuple[Point, str]], along: str = "update") -> str:
    points = [p for line in series.values() for p in line] + [p for p, _ in marks]
    if not points:
        return ""
    values = [y for _, y in points]
    frame = Frame(max(x for x, _ in points) or 1.0, _ticks(min(values), max(values)))
    lines = "".join(_line(frame, line, i) for i, line in enumerate(series.values()) if line)
    last = {name: f"{line[-1][1]:.3g}" for name, line in series.items() if line}
    words = html.escape(f"{title} by {along}, last " + ", ".join(f"{k} {v}".strip() for k, v in last.items()))
    keys = [f"<span class='key s{i}'></span>{html.escape(name)} " for i, name in enumerate(last) if name]
    note = "".join(keys) or f"last {last['']}" if last else ""
    return (
        f"<figure><figcaption><b>{html.escape(title)}</b><small>{note}</small></figcaption>"
        f"<svg viewBox='0 0 340 180' role=img aria-label='{words}'>"
        f"{_axes(frame, along)}{lines}{''.join(_mark(frame, p, kind) for p, kind in marks)}</svg></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, that enclose both."""
    span = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span))
    step = next(factor * unit for factor in (0.5, 1.0, 2.0, 5.0) if span <= 3 * factor * unit)
    first = math.floor(low / step)
    return [k * step for k in range(first, max(math.ceil(high / step), first + 1) + 1)]


def _axes(frame: Frame, along: str) -> str:
    heights = [(tick, frame.place((0, tick))[1]) for tick in frame.ticks]
    rows = "".join(
        f"<line class=grid x1=50 x2=332 y1={y:.1f} y2={y:.1f} /><text x=44 y={y + 4:.1f} class=end>{tick:.3g}</text>"
        for tick, y in heights
    )
    return f"{rows}<text x=50 y=174>0</text><text x=332 y=174 class=end>{along} {frame.right:.0f}</text>"


def _line(frame: Frame, line: Sequence[Point], colour: int) -> str:
    """The line itself, and over a long one its moving average."""
    width = len(line) // 20
    if width < 2:
        return f"<polyline class=s{colour} points='{frame.line(line)}'/>"
    near = [[y for _, y in line[max(0, i - width) : i + width + 1]] for i in range(len(line))]
    smooth = [(x, sum(ys) / len(ys)) for (x, _), ys in zip(line, near, strict=True)]
    return (
        f"<polyline class='s{colour} raw' points='{frame.line(line)}'/><polyline class=s{colour} points='{frame.line(smooth)}'/>"
    )


def _mark(frame: Frame, point: Point, kind: str) -> str:
    x, y = frame.place(point)
    title = f"update {point[0]}: {point[1]:.3f}"
    return f"<circle class={kind} r=5 cx={x:.1f} cy={y:.1f}><title>{title}</title></circle>"


def _tree(run: Path, tree: Row) -> str:
    nodes = {node["id"]: node for node in tree["nodes"]}
    steps = max(node["step"] for node in nodes.values())
    parents = {node["parent"] for node in nodes.values()}
    valued = any(node["image"] and i in parents for i, node in nodes.items())
    column = min(110, max(60 if valued else 28, 800 // max(steps, 1)))
    rows = _rows(tree["nodes"])
    at = {i: (TREE_LEFT + column * n["step"], TREE_TOP + TREE_ROW * (rows[i] + 0.5)) for i, n in nodes.items()}
    largest = max((abs(node["advantage"] or 0.0) for node in nodes.values()), default=0.0) or 1.0
    edges = "".join(_edge(n, at, largest) for n in nodes.values() if n["parent"] is not None)
    states = "".join(_state(run, n, at[i], i not in parents) for i, n in nodes.items())
    labels = "".join(f"<text class=mid x={TREE_LEFT + column * s} y=16>{s}</text>" for s in range(steps + 1))
    size = f"width={column * steps + TREE_LEFT + 120} height={TREE_TOP + TREE_ROW * (max(rows.values()) + 1):.0f}"
    inner = " A picture on the way: what its state becomes without further noise, and the reward of that." if valued else ""
    turns = " <span class='key turn'></span>turning point." if any(n["turning"] for n in nodes.values()) else ""
    return (
        "<h2>One group of the last update</h2>"
        f"<p class=prompt>&ldquo;{html.escape(tree['prompt'])}&rdquo;</p>"
        "<p>From noise (step 0) to pictures with their reward. Solid: stochastic step, "
        "<span class='key up'></span>advantage above zero, <span class='key down'></span>below, "
        f"full strength at {largest:.2f}. Dashed: deterministic.{inner}{turns}</p>"
        f"<div class=scroll><svg class=tree {size} role=img aria-label='rollout tree of {len(nodes)} states'>"
        f"{labels}{edges}{states}</svg></div>"
    )


def _rows(nodes: Sequence[Row]) -> dict[int, float]:
    """A leaf has a row of its own, in order; a state with children lies in their middle."""
    children: dict[int | None, list[int]] = defaultdict(list)
    for node in nodes:
        children[node["parent"]].append(node["id"])
    rows: dict[int, float] = {}
    free = itertools.count()

    def place(i: int) -> float:
        below = [place(child) for child in children[i]]
        rows[i] = (below[0] + below[-1]) / 2 if below else float(next(free))
        return rows[i]

    for root in children[None]:
        place(root)
    return rows


def _edge(node: Row, at: Mapping[int, Point], largest: float) -> str:
    (x0, y0), (x1, y1), advantage = at[node["parent"]], at[node["id"]], node["advantage"]
    sign = "up" if (advantage or 0.0) > 0 else "down" if advantage else "flat"
    kind = sign if node["stochastic"] else "ode"
    strength = f" stroke-opacity={0.25 + 0.75 * abs(advantage) / largest:.2f}" if advantage else ""
    words = f"{node['kernel']}, step {node['step']}" + (f", advantage {advantage:+.2f}" if advantage else "")
    middle = (x0 + x1) / 2
    return (
        f"<path class={kind}{strength} d='M{x0},{y0:.1f} C{middle},{y0:.1f} {middle},{y1:.1f} {x1},{y1:.1f}'>"
        f"<title>{html.escape(words)}</title></path>"
    )


def _state(run: Path, node: Row, at: Point, leaf: bool) -> str:
    """A leaf has its picture and reward to its right, a valued state on the way a small picture in its place."""
    x, y = at
    side = THUMBNAIL if leaf else SMALL_THUMBNAIL
    left = x + 12 if leaf else x - side / 2
    path = run / node["image"] if node["image"] else None
    shown = ""
    if path and path.is_file():
        place = f"x={left:.1f} y={y - side / 2:.1f} width={side} height={side}"
        shown = f"<image {place} href='{data_address(path, 2 * side)[0]}'/>"
    value = "" if node["value"] is None else f"{node['value']:.2f}"
    value += f"  {html.escape(node['text'][:TEXT])}" if node["text"] and leaf else ""
    words = (x + THUMBNAIL + 20, y + 4, "") if leaf else (x, y + side / 2 + 11, "class='mid tiny'")
    dot = "" if shown and not leaf else f"<circle r=3.5 cx={x} cy={y:.1f} />"
    ring = f"<rect class=turn x={x - 17:.1f} y={y - 17:.1f} width=34 height=34 rx=6 />" if node["turning"] else ""
    return f"{dot}{shown}{ring}<text {words[2]} x={words[0]:.1f} y={words[1]:.1f}>{value}</text>"
