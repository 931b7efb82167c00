"""Samples inside a page: pictures, clips, which play, and texts. A picture is a clip of one frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from flowgrpo.data.media import PIXELATED, address, frames_of

PICTURE = 320


@dataclass(frozen=True)
class Sample:
    """What `pages/marks.html.jinja` shows: a text, or a picture or clip at an address. Of `few` pixels each is seen."""

    text: str | None = None
    address: str = ""
    few: bool = False


def sample(folder: Path, made: Mapping[str, str]) -> Sample | None:
    """A text, or the picture or clip that is kept in the folder, inside the page; None where the file is gone."""
    if "text" in made:
        return Sample(made["text"])
    path = _path(folder, made)
    return picture(frames_of(path)) if path.is_file() else None


def picture(frames: Sequence[Image.Image]) -> Sample:
    """RGB frames, which are made smaller in place, inside the page."""
    data, few = address(frames, PICTURE)
    return Sample(None, data, few)


def linked(folder: Path, made: Mapping[str, str], base: str) -> Sample | None:
    """As `sample`, but the page asks for a picture at `base` and its name. What is written anew has another address."""
    if "text" in made:
        return Sample(made["text"])
    path = _path(folder, made)
    if not path.is_file():
        return None
    with Image.open(path) as file:
        return Sample(None, f"{base}{path.name}?{path.stat().st_mtime_ns}", max(file.size) <= PIXELATED)


def _path(folder: Path, made: Mapping[str, str]) -> Path:
    return folder / (made.get("image") or made["video"])
