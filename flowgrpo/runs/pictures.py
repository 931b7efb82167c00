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
    data, small = data_address(path, PICTURE)
    return f"<img class='{'pixels' if small else ''}' alt='{html.escape(alt)}' src='{data}'>"


def data_address(path: Path, limit: int) -> tuple[str, bool]:
    """The picture as a data address, at most `limit` pixels wide or high, and whether its pixels are few."""
    buffer = io.BytesIO()
    with Image.open(path) as file:
        shown = file.convert("RGB")
    small = max(shown.size) <= PIXELATED
    shown.thumbnail((limit, limit))
    shown.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", small
