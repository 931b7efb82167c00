"""Drawn scenes with captions: shapes x colours x sizes x counts x relations x backgrounds, in GenEval's six task types.

Pictures are 32 x 32 RGB, anti-aliased. Everything is a function of a numpy Generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from flowgrpo.rewards.scene import BACKGROUNDS, COLORS

SIDE = 32
FINE = 8
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
OPENINGS = ("", "a photo of ", "a picture of ", "a drawing of ")
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
    """A scene of which the metadata is true; what it does not state is random."""
    background = metadata.get("background") or str(rng.choice(list(BACKGROUNDS)))
    total = sum(item["count"] for item in metadata["include"])
    while True:
        objects = _objects(rng, metadata["include"], total)
        if _apart(objects) and _relation_holds(objects, metadata["include"]):
            return Scene(tuple(objects), background)


def _objects(rng: np.random.Generator, include: Sequence[Metadata], total: int) -> list[Object]:
    objects = []
    colors = [str(c) for c in rng.choice(list(COLORS), len(include), replace=len(include) < 2)]
    for item, color in zip(include, colors, strict=True):
        for _ in range(item["count"]):
            radius = _radius(rng, item.get("size"), total)
            x, y = rng.uniform(radius + 1.5, SIDE - radius - 1.5, 2)
            objects.append(Object(item["class"], item.get("color", color), radius, float(x), float(y)))
    return objects


def _radius(rng: np.random.Generator, size: str | None, total: int) -> float:
    if total == 1:
        large = rng.random() < 0.5 if size is None else size == "large"
        return float(rng.uniform(7.2, 8.6) if large else rng.uniform(3.9, 4.7))
    return float(rng.uniform(4.2, 4.9)) if total < 4 else float(rng.uniform(3.9, 4.4))


def _apart(objects: Sequence[Object]) -> bool:
    pairs = [(a, b) for i, a in enumerate(objects) for b in objects[:i]]
    return all(max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius + 2.0 for a, b in pairs)


def _relation_holds(objects: Sequence[Object], include: Sequence[Metadata]) -> bool:
    if "position" not in include[0]:
        return True
    a, b = objects
    dx, dy = a.x - b.x, a.y - b.y
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[include[0]["position"][0]]
    return along > abs(across) + 3.0


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
