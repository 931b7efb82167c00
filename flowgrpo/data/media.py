"""Pictures and clips from files. H, W pixels, F frames."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageOps, ImageSequence

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Shown

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CLIPS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})
ANIMATED = ("GIF", "WEBP", "PNG")
FRAME = 125
"""Milliseconds that a frame is seen."""
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


def frames_of(path: Path) -> list[Image.Image]:
    """RGB, one for a picture. A frame that is seen longer stands for several: WebP keeps none that repeats the last."""
    frames = []
    with Image.open(path) as file:
        for frame in ImageSequence.Iterator(file):
            shown = frame.convert("RGB")
            frames += [shown.copy() for _ in range(max(1, round(file.info.get("duration", FRAME) / FRAME)))]
    return frames


def animate(frames: Sequence[Image.Image], file: Path | io.BytesIO, lossless: bool) -> None:
    """Write a WebP that plays for ever."""
    frames[0].save(
        file, "webp", save_all=True, append_images=frames[1:], duration=FRAME, loop=0, lossless=lossless, quality=60, method=6
    )


def kept(sample: Shown, folder: Path, name: str) -> dict[str, str]:
    """A text as it is; without loss a picture as a file `name`.png in the folder, a clip as `name`.webp."""
    if isinstance(sample, str):
        return {"text": sample}
    if isinstance(sample, list):
        animate(sample, folder / f"{name}.webp", lossless=True)
        return {"video": f"{name}.webp"}
    sample.save(folder / f"{name}.png")
    return {"image": f"{name}.png"}
