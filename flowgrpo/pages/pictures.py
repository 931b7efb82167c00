"""Pictures inside a page that opens offline."""

import base64
import html
import io
from pathlib import Path

from PIL import Image

PICTURE, PIXELATED = 320, 128


def picture(path: Path, alt: str) -> str:
    """An <img>, empty where the file is gone."""
    if not path.is_file():
        return ""
    with Image.open(path) as file:
        return image(file.convert("RGB"), alt)


def image(shown: Image.Image, alt: str) -> str:
    """An <img> of an RGB picture, which is made smaller in place."""
    data, small = address(shown, PICTURE)
    return f"<img class='{'pixels' if small else ''}' alt='{html.escape(alt)}' src='{data}'>"


def data_address(path: Path, limit: int) -> tuple[str, bool]:
    """The picture as a data address, at most `limit` pixels wide or high, and whether its pixels are few."""
    with Image.open(path) as file:
        return address(file.convert("RGB"), limit)


def address(shown: Image.Image, limit: int) -> tuple[str, bool]:
    """The same of an RGB picture in memory, which is made smaller in place; what has many pixels becomes a JPEG."""
    buffer = io.BytesIO()
    small = max(shown.size) <= PIXELATED
    form = "png" if small else "jpeg"
    shown.thumbnail((limit, limit))
    shown.save(buffer, form, quality=88)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}", small
