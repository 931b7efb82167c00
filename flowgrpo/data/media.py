"""Pictures and clips in files: the one reader and the one writer of all of them. H, W pixels, F frames.

A picture is read as a person sees it on a white page:

- turned as its EXIF data say, in RGB, whatever its colour mode (grey, palette, CMYK, ...); a colour profile is not applied;
- what is transparent lies on white, so a colour that is hidden is not seen;
- with 8 bits a channel; more bits, or floats, are refused;
- of one frame. An animation is a clip, and several pages (TIFF) are refused.

A clip is read whole, or refused:

- it has several frames, or is a WebP that says that it is an animation: encoders make one picture of a clip of equal frames;
- an animation (GIF, WebP, PNG) has a constant frame rate: a frame that is seen k times as long as the shortest stands for k
  frames, since encoders store equal frames once. Other durations are refused;
- a film (MP4, WebM, AVI, ...) has a constant rate, as many frames as its header says, and its decoder finds nothing wrong;
- damage that a format has no way to tell (a changed byte in GIF, JPEG or VP9) can't be seen.

A picture is written with pixels rounded to the nearest of 256 levels, as diffusers does, in PNG; a clip in lossless WebP with
every frame stored, equal ones too, so that what is read is what was written, frame for frame. Pixels that are no numbers are
refused.
"""

import base64
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from flowgrpo.core.errors import UserError, short
from flowgrpo.data import _webp
from flowgrpo.data._film import film

Kind = Literal["image", "video"]
Shown = Image.Image | list[Image.Image] | str
"""A picture, the frames of a clip, or a text."""
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
CLIPS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})
ANIMATED = ("GIF", "WEBP", "PNG")
TICKS = {"GIF": 10.0}
"""Milliseconds that durations are rounded to, where it is not one."""
PIXELATED = 128
"""A picture that has no more pixels a side is shown with its pixels seen."""
FRAME = 125
"""Milliseconds that a frame is seen."""
MOST_PIXELS = 500_000_000
"""Of all frames of a clip together: 6 GB as float32."""
DEEP = re.compile(r";16[BLN]")
"""In the name of a codec's input: Pillow would drop the lower half of 16 bits."""
ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations of EXIF."""
END_OF_JPEG = b"\xff\xd9"


def read(path: Path, kind: Kind | None = None) -> np.ndarray:
    """uint8 [H, W, 3] for a picture, [F, H, W, 3] for a clip; without a kind, what has several frames is a clip.

    Whatever a decoder raises on a broken file is a UserError that names the file.
    """
    with _named(path):
        if kind == "image" or path.suffix.lower() in PICTURES:
            return _opened(path, kind)
        with closing(film(path)) as frames:
            return np.stack(_held(frames))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    name = short(path)
    if not os.path.isfile(path):
        raise UserError(f"{name}: no such file")
    try:
        yield
    except UserError as error:
        raise UserError(f"{name} {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} can't be read: it is not a picture of a format that is known here") from error
    except Exception as error:
        raise UserError(f"{name} can't be read ({type(error).__name__}: {error})") from error


def look(path: Path, kind: Kind | None) -> None:
    """Refuse what `read` would refuse; for a picture in PNG or JPEG without decoding it."""
    if kind != "image":
        read(path, kind)
        return
    with _named(path), Image.open(path) as file:
        _refuse_several(file)
        _refuse_deep(file)
        if file.format == "PNG":
            file.verify()
        elif file.format != "JPEG" or not path.read_bytes().endswith(END_OF_JPEG):
            _pixels(file)


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture as `read` gives it, from what its header says."""
    with _named(path), Image.open(path) as file:
        width, height = file.size
        return (width, height) if file.getexif().get(ExifTags.Base.Orientation) in ON_ITS_SIDE else (height, width)


def _opened(path: Path, kind: Kind | None) -> np.ndarray:
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as file:
        if kind == "image" or _count(file) == 1:
            if kind == "video" and not _webp.is_animation(content):
                raise UserError("is one picture, and a clip is wanted; was it a clip of equal frames, write it in another format")
            return still(file)[None] if kind == "video" else still(file)
        if file.format == "GIF" and not content.rstrip(b"\0\r\n ").endswith(b";"):
            raise UserError("has no end: the file was cut")
        return _animation(file)


def _count(file: Image.Image) -> int:
    """Frames or pages. (A camera's JPEG may hold previews behind its picture; they don't count.)"""
    return file.n_frames if file.format in (*ANIMATED, "TIFF") else 1  # type: ignore[attr-defined]


def still(file: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of an open file, or of a picture in memory; it must be one picture."""
    _refuse_several(file)
    return _pixels(file)


def _refuse_several(file: Image.Image) -> None:
    if (count := _count(file)) > 1:
        raise UserError(f"has {count} frames or pages, and one picture is wanted; save the one that is meant")


def _refuse_deep(picture: Image.Image) -> None:
    if picture.mode.startswith(("I", "F")):
        raise UserError(f"has pixels of mode {picture.mode}; save it with 8 bits per channel")
    if isinstance(picture, ImageFile.ImageFile) and DEEP.search(str(picture.tile)):
        raise UserError("has 16 bits per channel; save it with 8")


def _pixels(file: Image.Image) -> np.ndarray:
    _refuse_deep(file)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a reward's module may have set it
    picture = ImageOps.exif_transpose(file)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def _animation(file: Image.Image) -> np.ndarray:
    """uint8 [F, H, W, 3], without a picture that PNG shows where it can't be played."""
    if file.format not in ANIMATED:
        raise UserError(f"has {_count(file)} pages; save the one that is meant")
    durations: list[float] = []

    def stored() -> Iterator[np.ndarray]:
        for i in range(int(file.info.get("default_image", False)), _count(file)):
            file.seek(i)
            yield _pixels(file)
            durations.append(float(file.info.get("duration") or 0.0))

    frames = _held(stored())
    counts = _repeats(durations, TICKS.get(str(file.format), 1.0))
    return np.stack(_held(chain.from_iterable(map(repeat, frames, counts))))


def _repeats(durations: Sequence[float], tick: float) -> list[int]:
    """For how many frames of a constant rate each stands; durations were rounded down to whole ticks, all in milliseconds."""
    shortest = min(durations)
    if max(durations) == shortest:
        return [1] * len(durations)
    counts = [_multiples(duration, shortest, tick) for duration in durations] if shortest > 0 else [[]]
    if any(len(possible) != 1 for possible in counts):
        raise UserError(
            f"has frames of {shortest:g} to {max(durations):g} ms, which are not multiples of one duration; give all the same"
        )
    return [possible[0] for possible in counts]


def _multiples(duration: float, shortest: float, tick: float) -> list[int]:
    """What a duration can be a multiple of, where one of the shortest is `shortest` to `shortest + tick`."""
    if duration % shortest == 0.0:
        return [int(duration // shortest)]
    return list(range(math.floor(duration / (shortest + tick)) + 1, math.ceil((duration + tick) / shortest)))


def _held(frames: Iterable[np.ndarray]) -> list[np.ndarray]:
    held: list[np.ndarray] = []
    for frame in frames:
        held.append(frame)
        if len(held) * frame[..., 0].size > MOST_PIXELS:
            raise UserError(f"has more than {MOST_PIXELS:,} pixels in all its frames; cut it")
    return held


def frames_of(path: Path) -> list[Image.Image]:
    """RGB, one for a picture."""
    pixels = read(path)
    return [Image.fromarray(frame) for frame in (pixels if pixels.ndim == 4 else pixels[None])]


def rounded(pixels: Tensor) -> np.ndarray:
    """[..., 3, H, W] in [0, 1] -> uint8 [..., H, W, 3], each to the nearest level; what lies outside goes to 0 or 255."""
    if not torch.isfinite(pixels).all():
        raise UserError("a picture has pixels that are no finite numbers: did the VAE overflow? policy.dtype fp32 or bf16 helps")
    return pixels.mul(255).round().clamp(0, 255).byte().movedim(-3, -1).contiguous().cpu().numpy()


def animate(frames: Sequence[Image.Image], file: Path | io.BytesIO, lossless: bool) -> None:
    """Write a WebP to look at, which plays for ever; equal frames become one that is seen longer."""
    frames[0].save(
        file, "webp", save_all=True, append_images=frames[1:], duration=FRAME, loop=0, lossless=lossless, quality=60, method=6
    )


def save_sample(sample: Shown, folder: Path, name: str) -> dict[str, str]:
    """A text as it is; without loss a picture as a file `name`.png in the folder, a clip as `name`.webp."""
    if isinstance(sample, str):
        return {"text": sample}
    if isinstance(sample, list):
        (folder / f"{name}.webp").write_bytes(_webp.animation(sample, FRAME))
        return {"video": f"{name}.webp"}
    sample.save(folder / f"{name}.png")
    return {"image": f"{name}.png"}


def address(frames: Sequence[Image.Image], limit: int) -> tuple[str, bool]:
    """RGB frames, made smaller in place, as a data address at most `limit` pixels wide or high; and whether its pixels are few.

    What has many pixels loses some detail.
    """
    buffer = io.BytesIO()
    small = max(frames[0].size) <= PIXELATED
    for frame in frames:
        frame.thumbnail((limit, limit))
    form = "webp" if len(frames) > 1 else "png" if small else "jpeg"
    if form == "webp":
        animate(frames, buffer, lossless=small)
    else:
        frames[0].save(buffer, form, quality=88)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}", small
