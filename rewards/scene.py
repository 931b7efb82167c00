"""Scene judge: does a picture show exactly the objects that its prompt's metadata states? Classical vision (OpenCV).

`strict` is 1 when every stated fact holds and nothing else is there, else 0; `soft` is the share of stated facts that
hold. Made for the drawn scenes of mini-sd3.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil, pi, sqrt
from typing import Any

import cv2
import numpy as np
import torch

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import bad_row, stated
from flowgrpo.rewards._pixels import pixels
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 225),
    "yellow": (240, 210, 40),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (15, 15, 15)}
EXTENTS = {"triangle": (0.38, 0.68), "circle": (0.72, 0.87), "square": (0.885, 1.05)}
"""Area over bounding box: 0.5, pi / 4 and 1 for ideal shapes; what falls between is no clean shape."""
LARGE = 10.0
"""Equivalent diameter in pixels of a 32 px picture from which an object is large."""
ENLARGE = 8
AROUND = np.ones((3, 3), np.uint8)
MARGIN = 3
"""Pixels around a region that change what is seen of it when it is enlarged: one beside it, and two of the interpolation."""
OBJECTS = "a list of objects with class and count, and perhaps color, size and position [relation, index of another]"


def _ladder() -> list[Samples]:
    """A yellow triangle, and a red circle, where a red circle is asked for."""
    drawn = [np.full((256, 256, 3), BACKGROUNDS["white"], np.uint8) for _ in range(2)]
    cv2.fillPoly(drawn[0], [np.array([[128, 48], [48, 208], [208, 208]])], COLORS["yellow"])
    cv2.circle(drawn[1], (128, 128), 72, COLORS["red"], -1)
    row = {"prompt": "a red circle", "include": [{"class": "circle", "count": 1, "color": "red"}]}
    return [exemplars(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255.0, [row]) for picture in drawn]


judged = partial(
    card,
    reads="images",
    range=(0.0, 1.0),
    licence="Apache-2.0",
    source="flowgrpo",
    row='GenEval\'s: {"include": [{"class", "count", "color"?, "size"?, "position"?: [relation, index]}], "background"?}',
    ladder=_ladder,
    check=lambda _, prompt: _check(prompt.metadata),
)


@dataclass(frozen=True)
class Found:
    """An object in a picture; `shape` or `color` is None where it is not clean."""

    shape: str | None
    color: str | None
    diameter: float
    """Of a disc of the same area."""
    x: float
    y: float

    @property
    def size(self) -> str:
        return "large" if self.diameter > LARGE else "small"


@judged(better="every stated fact holds and nothing else is there")
def strict(samples: Samples) -> list[float]:
    return [float(all(facts)) for facts in _all_facts(samples)]


@judged(better="more of the stated facts hold")
def soft(samples: Samples) -> list[float]:
    return [float(np.mean(facts)) for facts in _all_facts(samples)]


@lru_cache(maxsize=1)
def _all_facts(samples: Samples) -> list[list[bool]]:
    """Looked at once when a run uses both scores."""
    return [facts(picture, metadata) for picture, metadata in zip(pixels(samples.images), samples.metadata, strict=True)]


def facts(pixels: np.ndarray, metadata: dict[str, Any]) -> list[bool]:
    """Each stated fact of [H, W, 3] uint8 pixels: nothing else, then class, count, colour, size and relation of each object, and
    the background."""
    _check(metadata)
    return holding(*look(pixels), metadata)


def holding(background: str, objects: list[Found], metadata: dict[str, Any]) -> list[bool]:
    """Which of the stated facts hold of what was found."""
    include = metadata["include"]
    matches = [[o for o in objects if _is(o, item)] for item in include]
    holds = [len(objects) == sum(item["count"] for item in include)]
    for item, those in zip(include, matches, strict=True):
        same_class = [o for o in objects if o.shape == item["class"]]
        holds += [bool(same_class), len(those) == item["count"]]
        holds += [any(o.color == item["color"] for o in same_class)] if "color" in item else []
        holds += [any(o.size == item["size"] for o in same_class)] if "size" in item else []
        if "position" in item:
            relation, other = item["position"]
            holds.append(any(_related(a, relation, b) for a in those for b in matches[other]))
    if "background" in metadata:
        holds.append(background == metadata["background"])
    return holds


def _check(row: dict[str, Any]) -> None:
    include = stated(row, "include", OBJECTS)
    if not isinstance(include, list) or not all(isinstance(item, dict) and {"class", "count"} <= item.keys() for item in include):
        raise bad_row(row, "include", OBJECTS)
    for item in include:
        match item.get("position", ("", 0)):
            case (str(), int(other)) if 0 <= other < len(include):
                pass
            case _:
                raise bad_row(row, "include", OBJECTS)


def _is(shape: Found, item: dict[str, Any]) -> bool:
    return shape.color is not None and all(
        value == item.get(key, value) for key, value in (("class", shape.shape), ("color", shape.color), ("size", shape.size))
    )


def _related(a: Found, relation: str, b: Found) -> bool:
    dx, dy = a.x - b.x, a.y - b.y
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    across = abs(dy) if relation in ("left of", "right of") else abs(dx)
    return along > across


def look(pixels: np.ndarray) -> tuple[str, list[Found]]:
    """The name of the background, and every object: connected regions that differ from it."""
    image = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    background = _median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]))
    mask = (_length(image - background) > 55.0).astype(np.uint8)
    _, labels, regions, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    name, _ = _nearest(background, BACKGROUNDS)
    objects = []
    for label, (x, y, w, h, area) in enumerate(regions.tolist()):
        if label and area >= 4:
            left, top = max(x - MARGIN, 0), max(y - MARGIN, 0)
            window = slice(top, y + h + MARGIN), slice(left, x + w + MARGIN)
            objects.append(_describe(image[window], background, labels[window] == label, left, top))
    return name, objects


def _length(vectors: np.ndarray) -> np.ndarray:
    """[..., 3] -> [...]"""
    return np.sqrt((vectors * vectors).sum(axis=-1))


def _median(colors: np.ndarray) -> np.ndarray:
    """[N, 3] -> [3]"""
    ordered, half = np.sort(colors, axis=0), len(colors) // 2
    return ordered[half] if len(colors) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _nearest(color: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> tuple[str, float]:
    distances = _length(color - np.array(list(palette.values())))
    nearest = int(distances.argmin())
    return list(palette)[nearest], float(distances[nearest])


def _describe(image: np.ndarray, background: np.ndarray, region: np.ndarray, left: int, top: int) -> Found:
    """From the part of a picture whose corner is there."""
    color, core = _color(image, background, region)
    coverage = _coverage(image, background, region, core)
    mask = (cv2.resize(coverage, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return Found(None, color, 0.0, 0.0, 0.0)
    contour = max(contours, key=cv2.contourArea)
    x, y, w, h = cv2.boundingRect(contour)
    area = float(mask[y : y + h, x : x + w].sum())
    diameter = sqrt(4.0 * area / pi) / ENLARGE
    return Found(_shape(contour, area, w, h), color, diameter, left + (x + w / 2) / ENLARGE, top + (y + h / 2) / ENLARGE)


def _color(image: np.ndarray, background: np.ndarray, region: np.ndarray) -> tuple[str | None, np.ndarray]:
    """The palette's name of the region's inner pixels, None when they are not of one colour; and their median."""
    pixels = image[region]
    depth = _length(pixels - background)
    at = ceil(0.6 * (len(depth) - 1))
    inner = pixels[depth >= np.partition(depth, at)[at]]
    core = _median(inner)
    name, distance = _nearest(core, COLORS)
    eroded = cv2.erode(region.astype(np.uint8), AROUND).astype(bool)
    deep = image[eroded] if eroded.any() else inner
    uniform = (_length(deep - core) < 60.0).mean()
    return (name if distance < 60.0 and uniform > 0.85 else None), core


def _coverage(image: np.ndarray, background: np.ndarray, region: np.ndarray, core: np.ndarray) -> np.ndarray:
    """How much of each pixel the object covers: its place between background and core colour, in [0, 1]."""
    axis = core - background
    share = ((image - background) @ axis) / max(float(axis @ axis), 1.0)
    near = cv2.dilate(region.astype(np.uint8), AROUND)
    return (share * near).clip(0.0, 1.0)


def _shape(contour: np.ndarray, area: float, w: int, h: int) -> str | None:
    hull = cv2.contourArea(cv2.convexHull(contour))
    if not 0.72 < w / h < 1.4 or cv2.contourArea(contour) < 0.92 * hull:
        return None
    extent = area / (w * h)
    return next((name for name, (low, high) in EXTENTS.items() if low <= extent <= high), None)
