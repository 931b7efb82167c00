"""Bars with intervals as one SVG that stands alone, in the style of `plot.py`: a name at the left, its number at the right."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from flowgrpo.pages.plot import COLOURS, STYLE, WIDTH
from flowgrpo.pages.ticks import round_ticks, tick_labels

NAMES, LEFT, RIGHT, ROW, HEAD, FOOT = 206, 216, 760, 26, 48, 62
LONGEST = 30
BARS = """
.bar { opacity: .85; } .whisker { stroke: #111827; stroke-width: 1.5; } .zero { stroke: #111827; }
"""


@dataclass(frozen=True)
class Bar:
    """A number and its interval (None: without). Bars of one `kind` share a colour."""

    name: str
    value: float
    interval: tuple[float, float] | None
    label: str
    kind: int = 0


@dataclass(frozen=True)
class Bars:
    title: str
    horizontal: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class _Scale:
    ticks: Sequence[float]

    def x(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return LEFT + (RIGHT - LEFT) * (min(max(value, low), high) - low) / (high - low)


def bar_figure(panels: Sequence[Bars]) -> str:
    """The panels below one another; intervals that reach far beyond the bars are cut off at the frame."""
    tops, top = [], 0
    for panel in panels:
        tops.append(top + HEAD)
        top += HEAD + ROW * len(panel.bars) + FOOT
    drawn = "".join(_panel(panel, at) for panel, at in zip(panels, tops, strict=True))
    words = html.escape("; ".join(panel.title for panel in panels))
    size = f"width='{WIDTH}' height='{top}' viewBox='0 0 {WIDTH} {top}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label='{words}'><style>{STYLE}{BARS}</style>"
    return f"{head}<rect width='100%' height='100%' fill='#fff'/>{drawn}</svg>"


def _panel(panel: Bars, top: int) -> str:
    values = [bar.value for bar in panel.bars]
    widest = max(map(abs, values)) or 1.0
    ends = [min(max(end, -0.5 * widest), 2.0 * widest) for bar in panel.bars for end in bar.interval or ()]
    scale = _Scale(round_ticks(min(0.0, *values, *ends), max(0.0, *values, *ends), 6))
    bottom = top + ROW * len(panel.bars)
    grid = "".join(
        f"<line class='grid' x1='{scale.x(tick):.1f}' x2='{scale.x(tick):.1f}' y1='{top}' y2='{bottom}'/>"
        f"<text class='mid' x='{scale.x(tick):.1f}' y='{bottom + 18}'>{label}</text>"
        for label, tick in zip(tick_labels(scale.ticks), scale.ticks, strict=True)
    )
    rows = "".join(_bar(bar, scale, top + ROW * i) for i, bar in enumerate(panel.bars))
    zero = f"<line class='zero' x1='{scale.x(0):.1f}' x2='{scale.x(0):.1f}' y1='{top}' y2='{bottom}'/>"
    title = f"<text class='title' x='12' y='{top - 18}'>{html.escape(panel.title)}</text>"
    below = f"<text class='mid' x='{(LEFT + RIGHT) / 2}' y='{bottom + 38}'>{html.escape(panel.horizontal)}</text>"
    return title + grid + rows + zero + below


def _bar(bar: Bar, scale: _Scale, top: int) -> str:
    middle, colour = top + ROW / 2, COLOURS[bar.kind % len(COLOURS)]
    left, right = sorted((scale.x(0.0), scale.x(bar.value)))
    name = bar.name if len(bar.name) <= LONGEST else bar.name[: LONGEST - 1] + "…"
    whisker = ""
    if bar.interval:
        low, high = map(scale.x, bar.interval)
        whisker = f"<line class='whisker' x1='{low:.1f}' x2='{high:.1f}' y1='{middle}' y2='{middle}'/>"
    return (
        f"<text class='end' x='{NAMES}' y='{middle + 4.5}'>{html.escape(name)}</text>"
        f"<rect class='bar' fill='{colour}' x='{left:.1f}' y='{top + 5}' width='{right - left:.1f}' height='{ROW - 10}'/>"
        f"{whisker}"
        f"<text x='{RIGHT + 14}' y='{middle + 4.5}'>{html.escape(bar.label)}</text>"
    )
