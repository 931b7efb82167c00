"""Line plots of the report, one small SVG each."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from flowgrpo.pages.ticks import round_ticks, tick_labels

Point = tuple[float, float]
LEFT, RIGHT, CHARACTER = 50, 332, 8
"""Where the lines begin at least, and end; how wide a character of a label is."""


@dataclass(frozen=True)
class Frame:
    """From updates and values to the coordinates of a plot of 340 x 180, with room for the labels of its ticks."""

    right: float
    ticks: Sequence[float]

    @cached_property
    def labels(self) -> list[str]:
        return tick_labels(self.ticks)

    @cached_property
    def left(self) -> int:
        return max(LEFT, 8 + CHARACTER * max(map(len, self.labels)))

    def place(self, point: Point) -> tuple[float, float]:
        low, high = self.ticks[0], self.ticks[-1]
        return self.left + (RIGHT - self.left) * point[0] / self.right, 10 + 144 * (high - point[1]) / (high - low)

    def line(self, points: Sequence[Point]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.place(p)) for p in points)


def plot(title: str, series: Mapping[str, list[Point]], marks: Sequence[tuple[Point, str]], along: str = "update") -> Markup:
    """A <figure>; empty without points. `marks` are single points, each with its class."""
    points = [p for line in series.values() for p in line] + [p for p, _ in marks]
    if not points:
        return Markup("")
    values = [y for _, y in points]
    frame = Frame(max(x for x, _ in points) or 1.0, round_ticks(min(values), max(values), 3))
    lines = "".join(_line(frame, line, i) for i, line in enumerate(series.values()) if line)
    last = {name: f"{line[-1][1]:.3g}" for name, line in series.items() if line}
    words = html.escape(f"{title} by {along}, last " + ", ".join(f"{k} {v}".strip() for k, v in last.items()))
    keys = [f"<span class='key s{i}'></span>{html.escape(name)} " for i, name in enumerate(last) if name]
    note = "".join(keys) or f"last {last['']}" if last else ""
    return Markup(
        f"<figure><figcaption><b>{html.escape(title)}</b><small>{note}</small></figcaption>"
        f"<svg viewBox='0 0 340 180' role=img aria-label='{words}'>"
        f"{_axes(frame, along)}{lines}{''.join(_mark(frame, p, kind) for p, kind in marks)}</svg></figure>"
    )


def _axes(frame: Frame, along: str) -> str:
    heights = [(label, frame.place((0, tick))[1]) for label, tick in zip(frame.labels, frame.ticks, strict=True)]
    left, right = frame.left, RIGHT
    rows = "".join(
        f"<line class=grid x1={left} x2={right} y1={y:.1f} y2={y:.1f} /><text x={left - 6} y={y + 4:.1f} class=end>{label}</text>"
        for label, y in heights
    )
    return f"{rows}<text x={left} y=174>0</text><text x={right} y=174 class=end>{along} {frame.right:.0f}</text>"


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
