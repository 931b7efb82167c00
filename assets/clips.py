"""Moving scenes with prompts: on white, one shape of one colour moves, stays, grows or shrinks in 9 frames of 32 x 32 pixels.

Everything is a function of a numpy Generator. What a prompt leaves open varies.
"""

from collections.abc import Iterator
from itertools import product
from math import hypot

import numpy as np

from flowgrpo.assets.scenes import Metadata, Object, Scene, draw
from flowgrpo.rewards.motion import DIRECTIONS, MOTIONS
from flowgrpo.rewards.scene import COLORS

FRAMES = 9
SHAPES = ("circle", "triangle")
OPENINGS = ("", "here ", "now ", "in this clip ", "in this film ", "in this video ")
MIDDLE, AWAY = 16.0, 2.0
"""Where the middle of every path is, and how far it may be from there, in pixels."""
DISTANCES = {"slowly": (5.0, 7.0), "quickly": (12.0, 15.0)}
SMALL, MEDIUM, LARGE = (4.0, 4.6), (5.0, 5.8), (7.2, 8.2)
"""Least and greatest radius in pixels."""
RADII = {"grows": (SMALL, LARGE), "shrinks": (LARGE, SMALL)}
PARTS = 4
"""One combination of shape, colour and motion in so many is held out."""


def rows() -> Iterator[Metadata]:
    """Every prompt that there is."""
    for shape, color, motion in product(SHAPES, COLORS, MOTIONS):
        for speed, opening in product((None, *DISTANCES) if motion in DIRECTIONS else (None,), OPENINGS):
            yield row(shape, color, motion, speed, opening)


def row(shape: str, color: str, motion: str, speed: str | None = None, opening: str = "") -> Metadata:
    """What a prompt states, and the prompt."""
    stated = {"shape": shape, "color": color, "motion": motion, **({"speed": speed} if speed else {})}
    return {"prompt": f"{opening}a {color} {shape} {_verb(motion, speed)}", "tag": tag(motion, speed), **stated}


def _verb(motion: str, speed: str | None) -> str:
    if motion not in DIRECTIONS:
        return {"still": "stays still"}.get(motion, motion)
    return " ".join(["moves", *([speed] if speed else []), motion])


def tag(motion: str, speed: str | None) -> str:
    if motion not in DIRECTIONS:
        return "still" if motion == "still" else "size"
    return "speed" if speed else ("diagonal" if "and" in motion else "straight")


def is_held_out(metadata: Metadata) -> bool:
    """Combinations that pre-training never sees, though it sees every two parts of each together."""
    places = SHAPES.index(metadata["shape"]), list(COLORS).index(metadata["color"]), MOTIONS.index(metadata["motion"])
    return sum(places) % PARTS == 0


def sample_row(rng: np.random.Generator) -> Metadata:
    """A row that is not held out."""
    while True:
        motion = str(rng.choice(MOTIONS))
        speeds = (None, *DISTANCES)
        speed = speeds[rng.choice(len(speeds))] if motion in DIRECTIONS else None
        found = row(str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))), motion, speed, str(rng.choice(OPENINGS)))
        if not is_held_out(found):
            return found


def sample_clip(rng: np.random.Generator, metadata: Metadata) -> np.ndarray:
    """[F, 32, 32, 3] uint8, of which the metadata is true."""
    motion = metadata["motion"]
    dx, dy = _displacement(rng, motion, metadata.get("speed") or str(rng.choice(list(DISTANCES))))
    x, y = MIDDLE + rng.uniform(-AWAY, AWAY, 2)
    medium = (rng.uniform(*MEDIUM),) * 2
    first, last = (rng.uniform(*radius) for radius in RADII[motion]) if motion in RADII else medium
    scenes = []
    for t in np.linspace(0.0, 1.0, FRAMES):
        place = float(x + (t - 0.5) * dx), float(y + (t - 0.5) * dy)
        scenes.append(Scene((Object(metadata["shape"], metadata["color"], float(first + (last - first) * t), *place),), "white"))
    return np.stack([draw(scene) for scene in scenes])


def _displacement(rng: np.random.Generator, motion: str, speed: str) -> tuple[float, float]:
    if motion not in DIRECTIONS:
        return 0.0, 0.0
    dx, dy = DIRECTIONS[motion]
    distance = rng.uniform(*DISTANCES[speed]) / hypot(dx, dy)
    return distance * dx, distance * dy
