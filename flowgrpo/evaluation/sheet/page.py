"""report.html of a sheet: how each reward's scores are spread, the best and the worst samples, and what failed."""

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
from flowgrpo.pages.marks import number
from flowgrpo.pages.pictures import Sample, picture
from flowgrpo.pages.templates import render

Facts = Mapping[str, Any]
Values = dict[str, Any]
"""What a part of the template is filled with."""
SHOWN = 24
"""So many of the best, and of the worst, by each reward."""
FAILURES, NAMED, CAPTION = 40, 5, 160
WIDTH, HEIGHT, MOST_BARS = 340, 88, 24
KINDS = {"image": "pictures", "video": "clips", "text": "texts"}


def write_page(folder: Path, source: str, lines: Sequence[Line], facts: Facts, settings: Facts) -> None:
    """Write report.html; `facts` is what summary.json holds."""
    labels = [label for label, reward in facts["rewards"].items() if reward["n"]]
    failures = _failures(lines)
    page = render(
        "evaluation/sheet/page.html.jinja",
        source=source,
        counts=_counts(lines, facts["failed"]),
        labels=labels,
        width=WIDTH,
        height=HEIGHT,
        spreads=[_spread(label, scores_of(lines, label), facts["rewards"][label]) for label in labels],
        few=SHOWN,
        **_samples(folder, lines, labels),
        failures=failures[:FAILURES],
        more_failures=len(failures) - FAILURES,
        settings=json.dumps(settings, indent=1),
    )
    write_text(folder / "report.html", page.encode(errors="replace").decode())


def _counts(lines: Sequence[Line], failed: int) -> dict[str, int]:
    counts = {words: sum(line.kind == kind for line in lines) for kind, words in KINDS.items()} | {"with a failure": failed}
    return {words: count for words, count in counts.items() if count}


def _spread(label: str, values: np.ndarray, reward: Facts) -> Values:
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
    return {
        "label": label,
        "mean": number(reward["mean"], rate),
        "interval": f"95 % interval {low} to {high}" if reward["n"] > 1 else "one sample",
        "notes": f"{'. '.join(filter(None, facts))}.",
        **_histogram(values),
    }


def _is_rate(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _range(ends: Sequence[float | None]) -> str:
    low, high = ends
    if low is None or high is None:
        return "" if low is high else f"At most {high:g}" if low is None else f"At least {low:g}"
    return f"Range {low:g} to {high:g}"


def _histogram(values: np.ndarray) -> Values:
    bars = 2 if _is_rate(values) and np.ptp(values) else int(np.clip(2 * np.sqrt(len(values)), 6, MOST_BARS))
    counts, edges = np.histogram(values, bins=bars)
    width = WIDTH / bars
    return {
        "n": len(values),
        "bars": [_bar(i * width, width, count / counts.max(), edges[i : i + 2], count) for i, count in enumerate(counts)],
        "at": f"{WIDTH * (values.mean() - edges[0]) / (edges[-1] - edges[0]):.1f}",
        "low": f"{edges[0]:.3g}",
        "high": f"{edges[-1]:.3g}",
    }


def _bar(x: float, width: float, share: float, ends: np.ndarray, count: int) -> Values:
    height = share * (HEIGHT - 6)
    place = {"x": f"{x + 1:.1f}", "y": f"{HEIGHT - height:.1f}", "width": f"{width - 2:.1f}", "height": f"{height:.1f}"}
    return {**place, "words": f"{ends[0]:.3g} to {ends[1]:.3g}: {count}"}


def _samples(folder: Path, lines: Sequence[Line], labels: Sequence[str]) -> Values:
    """The best and the worst by each reward, every sample once; and how many are left out by each."""
    places: dict[int, dict[int, int]] = defaultdict(dict)
    gaps = []
    for i, label in enumerate(labels):
        order = sorted((row for row, line in enumerate(lines) if label in line.scores), key=lambda r: -lines[r].scores[label])
        for place, row in enumerate(order):
            if place < SHOWN or place >= len(order) - SHOWN:
                places[row][i] = place
        gaps.append(len(order) - 2 * SHOWN)
    return {"cards": [_card(folder, lines[row], at) for row, at in sorted(places.items())], "gaps": gaps}


def _card(folder: Path, line: Line, at: Mapping[int, int]) -> Values:
    text = line.kind == "text"
    return {
        "kinds": " ".join(f"in{i}" for i in at),
        "order": ";".join(f"--at{i}:{place}" for i, place in at.items()),
        "text": line.content if text else None,
        "sample": None if text else _shown(folder, line),
        "alt": line.prompt,
        "prompt": shorten(line.prompt, CAPTION, placeholder=" ..."),
        "name": "" if text else Path(line.content).name,
        "scores": line.scores,
    }


def _shown(folder: Path, line: Line) -> Sample | None:
    """A picture or a clip; nothing where the file has gone."""
    try:
        pixels = read(folder / line.content, line.kind)  # type: ignore[arg-type]
    except UserError:
        return None
    return picture([Image.fromarray(frame) for frame in (pixels[None] if line.kind == "image" else pixels)])


def _failures(lines: Sequence[Line]) -> list[Values]:
    """By what has failed, the most frequent first."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for line in lines:
        labels: dict[str, list[str]] = defaultdict(list)
        for label, sentence in line.errors.items():
            labels[sentence].append(label)
        for sentence, failed in labels.items():
            names[", ".join(failed), sentence].append(shorten(line.content, CAPTION))
    order = sorted(names.items(), key=lambda found: -len(found[1]))
    return [{"labels": labels, "sentence": sentence, "where": _where(files)} for (labels, sentence), files in order]


def _where(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
