"""Pictures and clips inside a page that opens offline, where clips play. A picture is a clip of one frame."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from flowgrpo.data.media import animate, frames_of

PICTURE, PIXELATED = 320, 128


def sample(folder: Path, made: Mapping[str, str], alt: str) -> str:
    """A text, or an <img> of the picture or clip that is kept in the folder; empty where the file is gone."""
    if "text" in made:
        return f"<pre class=text>{html.escape(made['text'])}</pre>"
    path = folder / (made.get("image") or made["video"])
    return image(frames_of(path), alt) if path.is_file() else ""


def image(frames: Sequence[Image.Image], alt: str) -> str:
    """An <img> of RGB frames, which are made smaller in place."""
    data, small = address(frames, PICTURE)
    return f"<img class='{'pixels' if small else ''}' alt='{html.escape(alt)}' src='{data}'>"


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
