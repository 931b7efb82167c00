"""Motion judge: does a clip show one object of the stated shape and colour, moving as its prompt's metadata states?

The scene judge looks at a few frames, from the first to the last, and a straight path is fitted to what it finds. `strict` is 1
when every stated fact holds, else 0; `soft` is how well they hold. Made for the moving scenes of mini-wan. F frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import atan2, hypot, log, pi
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import stated
from flowgrpo.rewards._pixels import pixels
from flowgrpo.rewards.scene import BACKGROUNDS, COLORS, Found, look
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars

DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up and left": (-1, -1),
    "up and right": (1, -1),
    "down and left": (-1, 1),
    "down and right": (1, 1),
}
SIGNS = {"grows": 1.0, "shrinks": -1.0}
MOTIONS = (*DIRECTIONS, *SIGNS, "still")
SPEEDS = ("slowly", "quickly")
LOOKS = 5
"""At most so many frames are looked at."""
MOVES, QUICK = 3.0, 9.5
"""From how far on an object moves, and moves quickly: pixels of a 32 px clip, from the first frame to the last."""
STRAY = 1.5
"""How far it may be from a straight and even path."""
GROWS, KEEPS = 1.5, 1.3
"""From which ratio of its diameters on an object grows, and up to which it keeps its size."""
CLEAN = 2 / 3
"""In this share of the frames the shape must be clean."""


@dataclass(frozen=True)
class Path:
    """The straight and even path of an object: its displacement in pixels, and the logarithm of how much wider it becomes."""

    dx: float
    dy: float
    growth: float
    stray: float
    """The largest distance from it in pixels."""

    @property
    def length(self) -> float:
        return hypot(self.dx, self.dy)

    @staticmethod
    def through(times: Sequence[float], objects: Sequence[Found]) -> "Path":
        """Least squares; `times` are 0 in the first frame and 1 in the last."""
        places = np.array([(o.x, o.y, log(max(o.diameter, 1.0))) for o in objects])
        slope, start = np.polyfit(times, places, 1)
        strays = np.linalg.norm((places - start - np.outer(times, slope))[:, :2], axis=1)
        dx, dy, growth = slope.tolist()
        return Path(dx, dy, growth, float(strays.max()))


def _ladder() -> list[Samples]:
    """Nothing, a yellow triangle that stays, a red circle that moves right, and one that moves left, as it should."""

    def triangle(canvas: np.ndarray, x: int) -> None:
        cv2.fillPoly(canvas, [np.array([[x, 96], [x - 36, 160], [x + 36, 160]])], COLORS["yellow"])

    def circle(canvas: np.ndarray, x: int) -> None:
        cv2.circle(canvas, (x, 128), 40, COLORS["red"], -1)

    columns = [64, 96, 128, 160, 192]
    clips = [_painted(triangle, [128] * 5), _painted(circle, columns), _painted(circle, columns[::-1])]
    nothing = torch.full_like(clips[0], 0.5)
    row = {"prompt": "a red circle moves left", "shape": "circle", "color": "red", "motion": "left"}
    return [exemplars(clip[None], [row]) for clip in (nothing, *clips)]


def _painted(paint: Callable[[np.ndarray, int], None], xs: Sequence[int]) -> Tensor:
    """[F, 3, 256, 256]: what is painted at each of these columns, on white."""
    frames = np.full((len(xs), 256, 256, 3), BACKGROUNDS["white"], np.uint8)
    for frame, x in zip(frames, xs, strict=True):
        paint(frame, x)
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0


judged = partial(
    card,
    reads="videos",
    range=(0.0, 1.0),
    licence="Apache-2.0",
    source="flowgrpo",
    row=f'{{"shape", "color", "motion" ({", ".join(MOTIONS)}), "speed"? ({" or ".join(SPEEDS)}), "background"?}}',
    check=lambda _, prompt: _check(prompt.metadata),
)


@judged(better="every stated fact holds and nothing else is there", ladder=lambda: [_ladder()[0], _ladder()[-1]])
def strict(samples: Samples) -> list[float]:
    return [float(min(facts) == 1.0) for facts in _all_facts(samples)]


@judged(better="the stated facts hold better", ladder=_ladder)
def soft(samples: Samples) -> list[float]:
    """The share of frames with a single object of one colour in them, times the mean of the other facts."""
    return [facts[0] * float(np.mean(facts[1:])) for facts in _all_facts(samples)]


@lru_cache(maxsize=1)
def _all_facts(samples: Samples) -> list[list[float]]:
    """Looked at once when a run uses both scores."""
    return [facts(pixels(clip), row) for clip, row in zip(samples.videos, samples.metadata, strict=True)]


def facts(frames: np.ndarray, metadata: dict[str, Any]) -> list[float]:
    """How well each stated fact of [F, H, W, 3] uint8 frames holds, 1 where it does.

    One object of one colour; its shape, colour, direction, growth, even path, and speed and background where they are stated.
    """
    _check(metadata)
    if len(frames) < 2:
        raise UserError("motion is judged on clips of at least 2 frames, not 1")
    chosen = np.linspace(0, len(frames) - 1, min(LOOKS, len(frames))).round().astype(int)
    looks = [look(frame) for frame in frames[chosen]]
    times = chosen / (len(frames) - 1)
    seen = [(t, shapes[0]) for t, (_, shapes) in zip(times, looks, strict=True) if len(shapes) == 1 and shapes[0].color]
    if len(seen) < 2:
        return [0.0, 0.0]
    objects = [o for _, o in seen]
    path = Path.through([t for t, _ in seen], objects)
    held = [
        len(seen) / len(looks),
        min(1.0, float(np.mean([o.shape == metadata["shape"] for o in objects])) / CLEAN),
        float(np.mean([o.color == metadata["color"] for o in objects])),
        _heads(path, metadata["motion"]),
        _grows(path, metadata["motion"]),
        _within(path.stray, STRAY, 2.0 * STRAY),
    ]
    if "speed" in metadata:
        held.append(_within(path.length, QUICK, QUICK) if metadata["speed"] == "slowly" else min(1.0, path.length / QUICK))
    if "background" in metadata:
        held.append(float(np.mean([name == metadata["background"] for name, _ in looks])))
    return held


def _check(metadata: dict[str, Any]) -> None:
    for key in ("shape", "color", "motion"):
        stated(metadata, key, "what the clip must show")
    for key, known in (("motion", MOTIONS), ("speed", SPEEDS)):
        if key in metadata and metadata[key] not in known:
            raise UserError(f"unknown {key} '{metadata[key]}' in a prompt's metadata ({nearest(str(metadata[key]), known)})")


def _heads(path: Path, motion: str) -> float:
    """It goes in the direction, within an eighth of a half turn; or nowhere if there is none."""
    if motion not in DIRECTIONS:
        return _within(path.length, MOVES, MOVES)
    dx, dy = DIRECTIONS[motion]
    angle = abs(atan2(path.dx * dy - path.dy * dx, path.dx * dx + path.dy * dy))
    return _within(angle, pi / 8, pi / 2) * min(1.0, path.length / MOVES)


def _grows(path: Path, motion: str) -> float:
    if motion in SIGNS:
        return max(0.0, min(1.0, SIGNS[motion] * path.growth / log(GROWS)))
    return _within(abs(path.growth), log(KEEPS), log(GROWS))


def _within(value: float, limit: float, slack: float) -> float:
    """1 up to the limit, from there down to 0 at the slack beyond it."""
    return max(0.0, min(1.0, 1.0 - (value - limit) / slack))
