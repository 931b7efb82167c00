"""Drawn scenes with captions: shapes x colours x sizes x counts x relations x backgrounds, in GenEval's six task types.

Pictures are 32 x 32 RGB, anti-aliased. Everything is a function of a numpy Generator. As in the world, what a caption leaves
open is mostly what is usual: every shape has its colour, and most backgrounds are white.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from flowgrpo.rewards.scene import BACKGROUNDS, COLORS

SIDE = 32
FINE = 8
SHAPES = ("circle", "square", "triangle")
NUMBERS = {2: "two", 3: "three", 4: "four"}
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
OPENINGS = ("", "a photo of ", "a picture of ", "a drawing of ")
MIDDLE = (16.0, 16.0)
LEFT, RIGHT, TOP, BOTTOM = (8.5, 16.0), (23.5, 16.0), (16.0, 8.5), (16.0, 23.5)
HALVES = {"left of": (LEFT, RIGHT), "right of": (RIGHT, LEFT), "above": (TOP, BOTTOM), "below": (BOTTOM, TOP)}
RELATIONS = tuple(HALVES)
QUARTERS = [(x, y) for x in (8.5, 23.5) for y in (8.5, 23.5)]
RADII = {2: (4.6, 5.3), 3: (4.2, 4.8), 4: (4.0, 4.5)}
"""Least and greatest radius in pixels, by how many objects there are."""
USUAL_COLOR = {"circle": "red", "square": "blue", "triangle": "green"}
USUAL_BACKGROUND = "white"
USUAL = 0.75
"""How often what a caption leaves open is the usual."""
HELD_OUT_COLORS = {("red", "triangle"), ("blue", "circle"), ("yellow", "square")}
HELD_OUT_COUNTS = {(3, "triangle"), (4, "circle")}
HELD_OUT_RELATIONS = {("circle", "above", "square"), ("triangle", "left of", "circle")}

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Object:
    shape: str
    color: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    objects: tuple[Object, ...]
    background: str


def draw(scene: Scene) -> np.ndarray:
    """[32, 32, 3] uint8."""
    canvas = np.full((SIDE * FINE, SIDE * FINE, 3), BACKGROUNDS[scene.background], np.uint8)
    for o in scene.objects:
        _paint(canvas, o)
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _paint(canvas: np.ndarray, o: Object) -> None:
    x, y, r, color = o.x * FINE, o.y * FINE, o.radius * FINE, COLORS[o.color]
    if o.shape == "circle":
        cv2.circle(canvas, (round(x), round(y)), round(r), color, -1)
        return
    s = 0.9 * r if o.shape == "square" else r
    corners = [(-s, s), (s, s), (s, -s), (-s, -s)] if o.shape == "square" else [(-s, s * 0.85), (s, s * 0.85), (0, -s * 0.85)]
    points = np.array([(round(x + dx), round(y + dy)) for dx, dy in corners], np.int32)
    cv2.fillPoly(canvas, [points], color)


def sample_metadata(rng: np.random.Generator, tag: str) -> Metadata:
    """What a prompt of this task type states, and its caption."""
    first, second = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
    item: Metadata = {"class": first, "count": 1}
    include = [item]
    match tag:
        case "single_object":
            if rng.random() < 0.6:
                item["size"] = str(rng.choice(["small", "large"]))
        case "colors":
            item["color"] = str(rng.choice(list(COLORS)))
        case "counting":
            item["count"] = int(rng.integers(2, 5))
        case "two_object":
            include.append({"class": second, "count": 1})
        case "position":
            relation = str(rng.choice(RELATIONS))
            include = [{**item, "position": [relation, 1]}, {"class": second, "count": 1}]
        case "color_attr":
            one, two = (str(c) for c in rng.choice(list(COLORS), 2, replace=False))
            include = [{**item, "color": one}, {"class": second, "count": 1, "color": two}]
    metadata: Metadata = {"tag": tag, "include": include}
    if rng.random() < 0.3:
        metadata["background"] = str(rng.choice(list(BACKGROUNDS)))
    return {"prompt": str(rng.choice(OPENINGS)) + caption(metadata), **metadata}


def caption(metadata: Metadata) -> str:
    first, *rest = metadata["include"]
    text = _phrase(first)
    for item in rest:
        text += f" {first['position'][0] if 'position' in first else 'and'} {_phrase(item)}"
    return text + (f" on a {metadata['background']} background" if "background" in metadata else "")


def _phrase(item: Metadata) -> str:
    if item["count"] > 1:
        return f"{NUMBERS[item['count']]} {item['class']}s"
    return " ".join(["a", *(item[key] for key in ("size", "color", "class") if key in item)])


def is_held_out(metadata: Metadata) -> bool:
    """Combinations that pre-training never sees."""
    first, *rest = metadata["include"]
    if metadata["tag"] == "color_attr":
        return any((item["color"], item["class"]) in HELD_OUT_COLORS for item in metadata["include"])
    if metadata["tag"] == "counting":
        return (first["count"], first["class"]) in HELD_OUT_COUNTS
    return "position" in first and (first["class"], first["position"][0], rest[0]["class"]) in HELD_OUT_RELATIONS


def sample_scene(rng: np.random.Generator, metadata: Metadata) -> Scene:
    """A scene of which the metadata is true."""
    background = metadata.get("background") or _usual(rng, USUAL_BACKGROUND, BACKGROUNDS)
    places = iter(_places(rng, metadata["include"]))
    total = sum(item["count"] for item in metadata["include"])
    objects = []
    for item in metadata["include"]:
        color = item.get("color") or _usual(rng, USUAL_COLOR[item["class"]], COLORS)
        for _ in range(item["count"]):
            objects.append(Object(item["class"], color, _radius(rng, item.get("size"), total), *next(places)))
    return Scene(tuple(objects), background)


def _usual(rng: np.random.Generator, usual: str, every: Iterable[str]) -> str:
    return usual if rng.random() < USUAL else str(rng.choice(list(every)))


def _places(rng: np.random.Generator, include: Sequence[Metadata]) -> list[tuple[float, float]]:
    """One object stands near the middle, two in halves of the picture, more in its quarters."""
    total = sum(item["count"] for item in include)
    if total == 1:
        return _near(rng, [MIDDLE], 2.5)
    if total == 2:
        relation = include[0]["position"][0] if "position" in include[0] else str(rng.choice(RELATIONS))
        return _near(rng, HALVES[relation], 1.0)
    return _near(rng, [QUARTERS[i] for i in rng.permutation(4)[:total]], 1.0)


def _near(rng: np.random.Generator, places: Sequence[tuple[float, float]], distance: float) -> list[tuple[float, float]]:
    moves = rng.uniform(-distance, distance, (len(places), 2))
    return [(x + float(dx), y + float(dy)) for (x, y), (dx, dy) in zip(places, moves, strict=True)]


def _radius(rng: np.random.Generator, size: str | None, total: int) -> float:
    if total == 1:
        large = rng.random() < 0.5 if size is None else size == "large"
        return float(rng.uniform(7.2, 8.6) if large else rng.uniform(3.9, 4.7))
    return float(rng.uniform(*RADII[total]))


def wrong_variants(rng: np.random.Generator, metadata: Metadata) -> list[Metadata]:
    """The metadata with a single stated fact changed, once for each kind of fact it states."""
    variants = []
    include = metadata["include"]
    changes: list[tuple[int, str, Any]] = []
    for i, item in enumerate(include):
        used = {other["class"] for other in include}
        free = [s for s in SHAPES if s not in used]
        changes.append((i, "class", str(rng.choice(free))))
        if "color" in item:
            changes.append((i, "color", str(rng.choice([c for c in COLORS if c != item["color"]]))))
        if "size" in item:
            changes.append((i, "size", "small" if item["size"] == "large" else "large"))
        if "position" in item:
            relation = str(rng.choice([r for r in RELATIONS if r != item["position"][0]]))
            changes.append((i, "position", [relation, item["position"][1]]))
        if metadata["tag"] == "counting":
            changes.append((i, "count", int(rng.choice([n for n in (1, 2, 3, 4) if n != item["count"]]))))
    for i, key, value in changes:
        items = [{**item, key: value} if j == i else item for j, item in enumerate(include)]
        variants.append({**metadata, "include": items})
    if "background" in metadata:
        other = [b for b in BACKGROUNDS if b != metadata["background"]]
        variants.append({**metadata, "background": str(rng.choice(other))})
    return variants
