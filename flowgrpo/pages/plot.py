"""Line plots with bands as one SVG that stands alone: white ground, system fonts, no scripts. A label ends every line."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.pages.ticks import round_ticks, tick_labels

WIDTH, LEFT, RIGHT, SWATCH, LABELS = 960, 56, 680, 704, 734
LABEL_HEIGHT, LONGEST, CHARACTER = 17, 27, 9
COLOURS = ("#111827", "#2563eb", "#ea580c", "#15803d", "#9333ea", "#b58900", "#db2777", "#0e9fb8")
DASHES = ("none", "7 4", "2 3")
STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #4b5563; }
.title { font-size: 16px; font-weight: 600; fill: #111827; } .end { text-anchor: end; } .mid { text-anchor: middle; }
.name { font-weight: 600; font-size: 12.5px; } .grid { stroke: #e5e7eb; } .axis { stroke: #9ca3af; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .leader { fill: none; stroke-width: 1; stroke-dasharray: 1 3; }
.band { opacity: .1; }
"""


@dataclass(frozen=True)
class Line:
    """A line over x [K], and the band `low` to `high` [K] around it."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Panel:
    title: str
    horizontal: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Frame:
    """From data to the coordinates of a panel whose plot lies between `top` and `bottom`."""

    right: float
    ticks: Sequence[float]
    labels: Sequence[str]
    top: float
    bottom: float

    @property
    def left(self) -> int:
        """With room for the labels of the ticks."""
        return max(LEFT, 12 + CHARACTER * max(map(len, self.labels)))

    def x(self, value: float) -> float:
        return self.left + (RIGHT - self.left) * value / self.right

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.top + (self.bottom - self.top) * (high - value) / (high - low)

    def points(self, x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(x, y, strict=True))


def figure(panels: Sequence[Panel], rate: bool) -> str:
    """The panels below one another; a `rate` is written in per cent."""
    height = max(250, LABEL_HEIGHT * max(len(panel.lines) for panel in panels) + 20)
    step = height + 110
    drawn = "".join(_panel(panel, step * i + 48, step * i + 48 + height, rate) for i, panel in enumerate(panels))
    size = f"width='{WIDTH}' height='{step * len(panels)}' viewBox='0 0 {WIDTH} {step * len(panels)}'"
    words = html.escape("; ".join(panel.title for panel in panels))
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label='{words}'><style>{STYLE}</style>"
    return f"{head}<rect width='100%' height='100%' fill='#fff'/>{drawn}</svg>"


def _panel(panel: Panel, top: float, bottom: float, rate: bool) -> str:
    values = np.concatenate([side for line in panel.lines for side in (line.low, line.high)])
    right = max(line.x[-1] for line in panel.lines) or 1.0
    ticks = round_ticks(values.min(), values.max(), 5)
    labels = [f"{label}%" for label in tick_labels([100 * tick for tick in ticks])] if rate else tick_labels(ticks)
    frame = Frame(right, ticks, labels, top, bottom)
    bands = "".join(_band(frame, line, i) for i, line in enumerate(panel.lines))
    lines = "".join(_line(frame, line, i) for i, line in reversed(list(enumerate(panel.lines))))
    title = f"<text class='title' x='{frame.left}' y='{top - 18}'>{html.escape(panel.title)}</text>"
    return title + _axes(frame, panel.horizontal) + bands + lines + _labels(frame, panel.lines)


def _axes(frame: Frame, horizontal: str) -> str:
    left = frame.left
    rows = "".join(
        f"<line class='grid' x1='{left}' x2='{RIGHT}' y1='{frame.y(tick):.1f}' y2='{frame.y(tick):.1f}'/>"
        f"<text class='end' x='{left - 8}' y='{frame.y(tick) + 4:.1f}'>{label}</text>"
        for label, tick in zip(frame.labels, frame.ticks, strict=True)
    )
    marks = "".join(
        f"<text class='mid' x='{frame.x(tick):.1f}' y='{frame.bottom + 20}'>{tick:,.6g}</text>"
        for tick in round_ticks(0.0, frame.right, 6)
        if tick <= frame.right
    )
    axis = f"<line class='axis' x1='{left}' x2='{RIGHT}' y1='{frame.bottom}' y2='{frame.bottom}'/>"
    return (
        f"{rows}{axis}{marks}<text class='mid' x='{(left + RIGHT) / 2}' y='{frame.bottom + 42}'>{html.escape(horizontal)}</text>"
    )


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _band(frame: Frame, line: Line, i: int) -> str:
    around = frame.points(np.append(line.x, line.x[::-1]), np.append(line.low, line.high[::-1]))
    return f"<polygon class='band' fill='{_colour(i)}' points='{around}'/>"


def _stroke(i: int) -> str:
    return f"class='line' stroke='{_colour(i)}' stroke-dasharray='{DASHES[i // len(COLOURS) % len(DASHES)]}'"


def _line(frame: Frame, line: Line, i: int) -> str:
    end = f"<circle r='3.5' cx='{frame.x(line.x[-1]):.1f}' cy='{frame.y(line.y[-1]):.1f}' fill='{_colour(i)}'/>"
    return f"<polyline {_stroke(i)} points='{frame.points(line.x, line.y)}'/>{end}"


def _labels(frame: Frame, lines: Sequence[Line]) -> str:
    """Names at the right, in the order of the lines' ends, each led to from its end."""
    ends = [frame.y(line.y[-1]) for line in lines]
    places = apart(ends, LABEL_HEIGHT, frame.top, frame.bottom)
    return "".join(_label(frame, line, i, ends[i], places[i]) for i, line in enumerate(lines))


def _label(frame: Frame, line: Line, i: int, end: float, place: float) -> str:
    name = line.name if len(line.name) <= LONGEST else line.name[: LONGEST - 1] + "…"
    leader = f"{frame.x(line.x[-1]):.1f},{end:.1f} {RIGHT + 4},{end:.1f} {SWATCH - 3},{place:.1f}"
    return (
        f"<polyline class='leader' stroke='{_colour(i)}' points='{leader}'/>"
        f"<polyline {_stroke(i)} points='{SWATCH},{place:.1f} {LABELS - 6},{place:.1f}'/>"
        f"<text class='name' style='fill:{_colour(i)}' x='{LABELS}' y='{place + 4.5:.1f}'>{html.escape(name)}</text>"
    )


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in the same order, at least `gap` apart, and within the bounds if these have the room.

    Halfway between giving way downwards only and upwards only.
    """
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    free = np.array(wanted, dtype=float)[order] - steps
    middle = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    places = np.empty_like(middle)
    places[order] = np.clip(middle, low, high - steps[-1]) + steps
    return places.tolist()
