"""Rewards for clips: any reward of pictures frame by frame, how smoothly things move, and how much.

B clips of F frames of H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.card import EVERYTHING, card
from flowgrpo.scoring.exemplars import photos
from flowgrpo.scoring.exemplars import samples as exemplars
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.scoring.twins import Arguments, inner, tiny

STATISTICS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "mean": (np.mean, torch.mean),
    "min": (np.min, torch.amin),
}
SIDE = 256
UNSEEN = 4.0 / 255.0


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    """Of no more than two frames."""
    return inner("reward")(folder, {**arguments, "frames": min(2, arguments.get("frames") or 2)})


@tiny(_tiny)
@card(
    reads="videos",
    differentiable=True,
    range=EVERYTHING,
    better="what a higher score of its reward means, of the frames",
    licence="Apache-2.0, and its reward's",
    source="flowgrpo",
)
class FrameWise:
    """`reward` names a reward of pictures, made with `arguments`; a clip has the `statistic` ("mean" or "min") of its frames'.

    `frames` of them are judged, from the middles of as many equal parts of the clip; None judges all. The reward is called once
    per moment, with that frame of every clip in the clips' groups. So one that compares samples compares the same moment of
    clips of one prompt, and never frames of one clip. It is differentiable where its reward is.
    """

    def __init__(
        self, reward: str, arguments: Mapping[str, Any] | None = None, frames: int | None = None, statistic: str = "mean"
    ) -> None:
        if statistic not in STATISTICS:
            raise UserError(f"unknown statistic '{statistic}' ({nearest(statistic, STATISTICS)})")
        if frames is not None and frames < 1:
            raise UserError(f"at least 1 frame must be judged, not {frames}")
        self.scorer = Scorer({reward: RewardConfig(use=reward, arguments=dict(arguments or {}))})
        if self.scorer.cards[reward].reads not in (None, "images"):
            raise UserError(f"'{reward}' judges {self.scorer.cards[reward].reads}, and FrameWise needs a reward of images")
        self.reward, self.frames, self.statistic = reward, frames, STATISTICS[statistic]

    def __call__(self, samples: Samples) -> list[float] | Tensor:
        moments = [replace(samples, outputs=samples.videos[:, t]) for t in self._moments(samples.videos.shape[1])]
        if not samples.videos.requires_grad:
            return self.statistic[0]([self.scorer(frames)[self.reward] for frames in moments], axis=0).tolist()
        self.scorer.require_differentiable()
        return self.statistic[1](torch.stack([self.scorer.with_gradient(frames)[self.reward] for frames in moments]), dim=0)

    def _moments(self, length: int) -> list[int]:
        judged = min(self.frames or length, length)
        return [(2 * i + 1) * length // (2 * judged) for i in range(judged)]


def _pans(*lefts: Sequence[int]) -> list[Samples]:
    """Clips of a window that moves over a photograph, by the column where it begins in each frame."""
    photo = photos("coffee").images[0, :, 48:176]
    clips = [torch.stack([photo[:, :, left : left + 128] for left in columns]) for columns in lefts]
    return [exemplars(clip[None], [{}]) for clip in clips]


moving = partial(card, reads="videos", range=(0.0, 1.0), licence="Apache-2.0", source="flowgrpo")


@moving(
    better="more of the change between frames is motion at constant velocity; 1 as well where nothing moves",
    ladder=lambda: _pans((0, 60, 10, 80, 30, 5), (0, 9, 15, 25, 31, 40), (0, 8, 16, 24, 32, 40)),
)
def smoothness(samples: Samples) -> list[float]:
    """1 - error / change over all inner frames, at least 0.

    The error is that of predicting a frame from both its neighbours, moved by the mean of the velocities before and after it
    (Farneback's optical flow); the change is that to its neighbours as they are, both in mean absolute grey levels, of which
    four or fewer don't count. Clips are shrunk to 256 pixels. A still clip is perfectly smooth: train with `dynamics` beside it.
    """
    return [_smoothness(_frames(clip, 3)) for clip in samples.videos]


@moving(
    better="frames differ more from the one before; flicker counts like motion",
    ladder=lambda: _pans((20,) * 6, (20, 22, 24, 26, 28, 30), (0, 8, 16, 24, 32, 40)),
)
def dynamics(samples: Samples) -> list[float]:
    """The mean absolute change from frame to frame; 0 for a still clip, 1 for one that turns from black to white and back.

    Alone it asks for flicker, as `smoothness` alone asks for stillness.
    """
    return [float(np.abs(np.diff(_frames(clip, 2), axis=0)).mean()) for clip in samples.videos]


def _frames(clip: Tensor, least: int) -> np.ndarray:
    """[F, 3, H, W] -> [F, H, W, 3], at most SIDE pixels wide and high."""
    if len(clip) < least:
        raise UserError(f"motion is judged on clips of at least {least} frames, not {len(clip)}")
    shrink = min(1.0, SIDE / max(clip.shape[2:]))
    size = tuple(max(1, round(length * shrink)) for length in (clip.shape[3], clip.shape[2]))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip.permute(0, 2, 3, 1).numpy()])


def _smoothness(frames: np.ndarray) -> float:
    grey = [np.rint(255.0 * cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)).astype(np.uint8) for frame in frames]
    there = [_flow(a, b) for a, b in pairwise(grey)]
    back = [_flow(b, a) for a, b in pairwise(grey)]
    error = change = 0.0
    for t in range(1, len(frames) - 1):
        before, frame, after = frames[t - 1 : t + 2]
        velocity = (there[t] - back[t - 1]) / 2.0
        error += _difference(frame, (_moved(before, -velocity) + _moved(after, velocity)) / 2.0)
        change += (_difference(frame, before) + _difference(frame, after)) / 2.0
    return 1.0 - min(1.0, error / change) if change else 1.0


def _flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[H, W, 2]: how far in x and y each pixel of a is moved in b."""
    return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 5, 11, 3, 5, 1.1, 0)


def _moved(frame: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """The frame [H, W, 3] as seen `velocity` [H, W, 2] away from each pixel."""
    y, x = np.indices(velocity.shape[:2], np.float32)
    return cv2.remap(frame, x + velocity[..., 0], y + velocity[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.maximum(np.abs(a - b) - UNSEEN, 0.0).mean())
