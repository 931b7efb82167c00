"""Pictures and clips inside a page that opens offline, where clips play. A picture is a clip of one frame."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from flowgrpo.data.media import address, frames_of

PICTURE = 320


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
