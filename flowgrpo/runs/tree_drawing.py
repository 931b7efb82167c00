"""The report's drawing of one group: from noise to pictures, with advantages on the transitions."""

import html
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flowgrpo.data.media import address, frames_of

Row = dict[str, Any]
Point = tuple[float, float]
TEXT = 60
THUMBNAIL, SMALL_THUMBNAIL, TREE_ROW, TREE_TOP, TREE_LEFT = 44, 28, 54, 34, 20


def draw_tree(run: Path, tree: Row, heading: str = "One group of the last update") -> Markup:
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
    up, down = ("<span class='key " + side + "'></span>" for side in ("up", "down"))
    scored = any(node["value"] is not None for node in nodes.values())
    judged = f", {up}advantage above zero, {down}below, full strength at {largest:.2f}" if scored else ""
    inner = " A picture on the way: what its state becomes without further noise." if valued else ""
    turns = " <span class='key turn'></span>turning point." if any(n["turning"] for n in nodes.values()) else ""
    return Markup(
        f"<h2>{heading}</h2>"
        f"<p class=prompt>&ldquo;{html.escape(tree['prompt'])}&rdquo;</p>"
        f"<p>From noise (step 0) to samples. Solid: stochastic step{judged}. Dashed: deterministic.{inner}{turns}</p>"
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
        shown = f"<image {place} href='{address(frames_of(path), 2 * side)[0]}'/>"
    value = "" if node["value"] is None else f"{node['value']:.2f}"
    value += f"  {html.escape(node['text'][:TEXT])}" if node["text"] and leaf else ""
    words = (x + THUMBNAIL + 20, y + 4, "") if leaf else (x, y + side / 2 + 11, "class='mid tiny'")
    dot = "" if shown and not leaf else f"<circle r=3.5 cx={x} cy={y:.1f} />"
    ring = f"<rect class=turn x={x - 17:.1f} y={y - 17:.1f} width=34 height=34 rx=6 />" if node["turning"] else ""
    return f"{dot}{shown}{ring}<text {words[2]} x={words[0]:.1f} y={words[1]:.1f}>{value}</text>"
