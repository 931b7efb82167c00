"""Pictures and clips from files. H, W pixels, F frames."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps, ImageSequence

from flowgrpo.core.errors import UserError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CLIPS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})
ANIMATED = ("GIF", "WEBP", "PNG")
MOST_PIXELS = 500_000_000
"""Of all frames of a clip together: 6 GB as float32."""


def read(path: Path, kind: Literal["image", "video"] | None = None) -> np.ndarray:
    """uint8 [H, W, 3] for a picture, [F, H, W, 3] for a clip; without a kind, what has several frames is a clip.

    Whatever a decoder raises on a broken file is a UserError that names the file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return _opened(path, kind) if kind == "image" or path.suffix.lower() in PICTURES else _clip(_decoded(path))
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:
        raise UserError(f"{path} can't be read ({type(error).__name__}: {error})") from error


def _opened(path: Path, kind: str | None) -> np.ndarray:
    with Image.open(path) as file:
        if kind == "image" or (kind is None and file.format not in ANIMATED):
            return _pixels(file)
        frames = _clip(map(_pixels, ImageSequence.Iterator(file)))
    return frames if kind == "video" or len(frames) > 1 else frames[0]


def _pixels(picture: Image.Image) -> np.ndarray:
    """As a person sees it: turned as its EXIF data say."""
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"has pixels of mode {picture.mode}; save it with 8 bits per channel")
    return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def _decoded(path: Path) -> Iterator[np.ndarray]:
    film = cv2.VideoCapture(str(path))
    try:
        while (step := film.read())[0]:
            yield cv2.cvtColor(step[1], cv2.COLOR_BGR2RGB)
    finally:
        film.release()


def _clip(frames: Iterable[np.ndarray]) -> np.ndarray:
    kept: list[np.ndarray] = []
    for frame in frames:
        kept.append(frame)
        if len(kept) * frame[..., 0].size > MOST_PIXELS:
            raise UserError(f"has more than {MOST_PIXELS:,} pixels in all its frames; cut it")
    if not kept:
        raise UserError("has no frame that can be read")
    return np.stack(kept)
