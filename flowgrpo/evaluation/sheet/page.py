"""report.html of a sheet: how each reward's scores are spread, the best and the worst samples, and what failed."""

import html
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image

from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import write_text
from flowgrpo.data.media import read
from flowgrpo.evaluation.sheet.lines import Line
from flowgrpo.evaluation.sheet.summary import scores_of
from flowgrpo.pages.marks import number, score_mark
from flowgrpo.pages.page import PAGE, STYLE
from flowgrpo.pages.pictures import image

Facts = Mapping[str, Any]
SHOWN = 24
"""So many of the best, and of the worst, by each reward."""
FAILURES, NAMED, CAPTION = 40, 5, 160
WIDTH, HEIGHT, MOST_BARS = 340, 88, 24
SHEET_STYLE = """
.mean { margin: 0 0 8px; font-size: 34px; font-weight: 650; letter-spacing: -.025em; color: var(--fg); }
.mean small { letter-spacing: 0; margin-left: 8px; } .plots figure > small { display: block; margin-top: 4px; }
rect { fill: var(--new); } line.mean { stroke: var(--fg); stroke-dasharray: 3 4; }
.sheet { position: relative; } .by { position: absolute; opacity: 0; }
nav { display: flex; flex-wrap: wrap; gap: 8px; margin: 4px 0 24px; }
nav label { padding: 5px 14px; border-radius: 99px; background: var(--card); color: var(--soft); cursor: pointer; }
.cards > .in { display: none; overflow-wrap: anywhere; }
.left { grid-column: 1 / -1; text-align: center; margin: 12px 0; padding-top: 16px; border-top: 1px solid var(--line); }
.sheet .card img { width: 100%; display: block; border-radius: 8px; }
.sheet .card pre { margin: 0; padding: 6px 0; white-space: pre-wrap; max-height: 240px; overflow-y: auto; }
.sheet figcaption small { margin-bottom: 6px; } .failure { overflow-wrap: anywhere; border-top: 1px solid var(--line);
  padding: 10px 0; margin: 0; } .failure b { color: var(--fg); margin-right: 10px; }
.failure small { display: block; }
"""
ORDER_STYLE = """
#by{i}:checked ~ nav label[for=by{i}] {{ background: var(--new); color: var(--bg); }}
#by{i}:focus-visible ~ nav label[for=by{i}] {{ outline: 2px solid var(--fg); outline-offset: 2px; }}
#by{i}:checked ~ .cards > .in{i} {{ display: block; order: var(--at{i}); }}
"""


def write_page(folder: Path, source: str, lines: Sequence[Line], facts: Facts, settings: Facts) -> None:
    """Write report.html; `facts` is what summary.json holds."""
    labels = [label for label, reward in facts["rewards"].items() if reward["n"]]
    style = STYLE + SHEET_STYLE + "".join(ORDER_STYLE.format(i=i) for i in range(len(labels)))
    sections = [
        _header(source, lines, facts),
        _spreads({label: scores_of(lines, label) for label in labels}, facts["rewards"]),
        _samples(folder, lines, labels),
        _failures(lines) if facts["failed"] else "",
        f"<details class=config><summary>Settings</summary><pre>{html.escape(json.dumps(settings, indent=1))}</pre></details>",
    ]
    page = PAGE.format(title=html.escape(source), style=style, body="\n".join(filter(None, sections)))
    write_text(folder / "report.html", page.encode(errors="replace").decode())


def _header(source: str, lines: Sequence[Line], facts: Facts) -> str:
    words = {"image": "pictures", "video": "clips", "text": "texts"}
    counts = {words[kind]: sum(line.kind == kind for line in lines) for kind in words}
    counts |= {"with a failure": facts["failed"]}
    cells = "".join(f"<div><dt>{word}</dt><dd>{count:,}</dd></div>" for word, count in counts.items() if count)
    return f"<header><p class=eyebrow>flowgrpo score</p><h1 class=name>{html.escape(source)}</h1><dl>{cells}</dl></header>"


def _spreads(scores: Mapping[str, np.ndarray], rewards: Facts) -> str:
    figures = "".join(_spread(label, values, rewards[label]) for label, values in scores.items())
    return f"<h2>Scores</h2><p>Higher is better. Dashed: the mean.</p><div class=plots>{figures}</div>"


def _spread(label: str, values: np.ndarray, reward: Facts) -> str:
    """Mean, interval and histogram of scores [N]."""
    rate = _is_rate(values)
    low, high = (number(end, rate) for end in reward["ci95"])
    seconds = reward["seconds_per_sample"]
    facts = [
        f"High: {reward['better']}",
        _range(reward["range"]),
        f"{reward['n']:,} scored" + (f", {reward['failed']:,} failed" if reward["failed"] else ""),
        f"{seconds:.2g} s a sample" if seconds else "",
        f"Licence: {reward['licence']}",
    ]
    notes = html.escape(". ".join(filter(None, facts)))
    interval = f"95 % interval {low} to {high}" if reward["n"] > 1 else "one sample"
    return (
        f"<figure><figcaption><b>{html.escape(label)}</b></figcaption>"
        f"<p class=mean>{number(reward['mean'], rate)}<small>{interval}</small></p>"
        f"{_histogram(values)}<small>{notes}.</small></figure>"
    )


def _is_rate(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _range(ends: Sequence[float | None]) -> str:
    low, high = ends
    if low is None or high is None:
        return "" if low is high else f"At most {high:g}" if low is None else f"At least {low:g}"
    return f"Range {low:g} to {high:g}"


def _histogram(values: np.ndarray) -> str:
    bars = 2 if _is_rate(values) and np.ptp(values) else int(np.clip(2 * np.sqrt(len(values)), 6, MOST_BARS))
    counts, edges = np.histogram(values, bins=bars)
    width = WIDTH / bars
    shown = "".join(_bar(i * width, width, count / counts.max(), edges[i : i + 2], count) for i, count in enumerate(counts))
    mean = WIDTH * (values.mean() - edges[0]) / (edges[-1] - edges[0])
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT + 20}' role=img aria-label='histogram of {len(values)} scores'>{shown}"
        f"<line class=grid x1=0 x2={WIDTH} y1={HEIGHT} y2={HEIGHT} />"
        f"<line class=mean x1={mean:.1f} x2={mean:.1f} y1=0 y2={HEIGHT} />"
        f"<text x=0 y={HEIGHT + 16}>{edges[0]:.3g}</text><text x={WIDTH} y={HEIGHT + 16} class=end>{edges[-1]:.3g}</text></svg>"
    )


def _bar(x: float, width: float, share: float, ends: np.ndarray, count: int) -> str:
    height = share * (HEIGHT - 6)
    return (
        f"<rect x={x + 1:.1f} y={HEIGHT - height:.1f} width={width - 2:.1f} height={height:.1f} rx=2>"
        f"<title>{ends[0]:.3g} to {ends[1]:.3g}: {count}</title></rect>"
    )


def _samples(folder: Path, lines: Sequence[Line], labels: Sequence[str]) -> str:
    """Every sample once; radio buttons choose by style alone which are seen, and in which order."""
    places: dict[int, dict[int, int]] = defaultdict(dict)
    gaps = ""
    for i, label in enumerate(labels):
        order = sorted((row for row, line in enumerate(lines) if label in line.scores), key=lambda r: -lines[r].scores[label])
        for place, row in enumerate(order):
            if place < SHOWN or place >= len(order) - SHOWN:
                places[row][i] = place
        gaps += _gap(i, len(order) - 2 * SHOWN)
    buttons = "".join(f"<input class=by type=radio name=by id=by{i}{'' if i else ' checked'}>" for i in range(len(labels)))
    names = "".join(f"<label for=by{i}>{html.escape(label)}</label>" for i, label in enumerate(labels))
    cards = "".join(_card(folder, lines[row], at) for row, at in sorted(places.items()))
    return (
        "<h2>From best to worst</h2><p>Ordered by:</p>"
        f"<div class=sheet>{buttons}<nav>{names}</nav><div class=cards>{cards}{gaps}</div></div>"
    )


def _gap(i: int, left_out: int) -> str:
    words = f"{left_out:,} {'samples' if left_out > 1 else 'sample'} in between not shown; scores.jsonl holds all"
    return f"<p class='left in in{i}' style='--at{i}:{SHOWN}'>{words}</p>" if left_out > 0 else ""


def _card(folder: Path, line: Line, at: Mapping[int, int]) -> str:
    kinds = " ".join(f"in{i}" for i in at)
    order = ";".join(f"--at{i}:{place}" for i, place in at.items())
    scores = "".join(_score(label, value) for label, value in line.scores.items())
    prompt = html.escape(shorten(line.prompt, CAPTION, placeholder=" ..."))
    name = "" if line.kind == "text" else f"<small>{html.escape(Path(line.content).name)}</small>"
    return (
        f"<figure class='card in {kinds}' style='{order}'>{_shown(folder, line)}"
        f"<figcaption>{prompt}{name}</figcaption>{scores}</figure>"
    )


def _score(label: str, value: float) -> str:
    return score_mark(label, value) if value in (0, 1) else f"<span class=score>{value:.3g} {html.escape(label)}</span>"


def _shown(folder: Path, line: Line) -> str:
    """A picture, a clip, or a text; nothing where the file has gone."""
    if line.kind == "text":
        return f"<pre>{html.escape(line.content)}</pre>"
    try:
        pixels = read(folder / line.content, line.kind)
    except UserError:
        return ""
    return image([Image.fromarray(frame) for frame in (pixels[None] if line.kind == "image" else pixels)], line.prompt)


def _failures(lines: Sequence[Line]) -> str:
    """By what has failed, the most frequent first."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in lines:
        labels: dict[str, list[str]] = defaultdict(list)
        for label, sentence in line.errors.items():
            labels[sentence].append(label)
        for sentence, failed in labels.items():
            names[", ".join(failed), sentence].append(shorten(line.content, CAPTION))
    order = sorted(names.items(), key=lambda found: -len(found[1]))
    shown = "".join(_failure(*what, where) for what, where in order[:FAILURES])
    rest = f"<p>{len(order) - FAILURES:,} more are in scores.jsonl.</p>" if len(order) > FAILURES else ""
    return f"<h2>What failed</h2><p>These have no score; the same command tries them again.</p>{shown}{rest}"


def _failure(labels: str, sentence: str, names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    where = html.escape(", ".join(names[:NAMED]) + rest)
    return f"<p class=failure><b>{html.escape(labels)}</b>{html.escape(sentence)}<small>{where}</small></p>"
