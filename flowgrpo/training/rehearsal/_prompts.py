"""The prompts of a rehearsal: a few of a generator's, the user's own files, and a task's example rows for what a hub holds."""

import json
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from PIL import Image

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import ASSET, assets, locate
from flowgrpo.core.whole import write_text
from flowgrpo.data.prompts import CONDITION, HUB, at_hand, is_file
from flowgrpo.policies.tiny.asked import files

Tree = dict[str, Any]
Row = dict[str, Any]
ROWS = 4
SIDE = 64
"""Of the pictures that rows name, where the model does not say."""


def few_prompts(source: str, rows: tuple[Row, ...], folder: Path, sizes: Tree) -> str:
    """The source to take instead; the example rows are written into the folder, with the pictures that they name."""
    if source.startswith(HUB):
        if not rows:
            raise UserError(
                f"prompts {source} are on a hub, and the task gives no examples of them; say some: about: {{rows: [...]}}"
            )
        return _written(rows, folder, sizes)
    if is_file(source) or not at_hand(source):
        return source
    generator, _, query = source.partition("?")
    return f"{generator}?{urlencode({**dict(parse_qsl(query)), 'count': ROWS})}"


def _written(rows: tuple[Row, ...], folder: Path, sizes: Tree) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_with_pictures(row, folder, sizes)) for row in islice(cycle(rows), max(ROWS, len(rows)))]
    write_text(folder / "prompts.jsonl", "".join(f"{line}\n" for line in lines))
    return str(folder / "prompts.jsonl")


def _with_pictures(row: Row, folder: Path, sizes: Tree) -> Row:
    """Paths beside the file of rows in the place of the pictures and clips that it names."""
    named = {key: value for key, value in row.items() if CONDITION.fullmatch(key) and value is not None}
    return {**row, **{key: _made(key, value, folder, sizes.get(key) or (SIDE, SIDE)) for key, value in named.items()}}


def _made(name: str, value: Any, folder: Path, size: Any) -> Any:
    """For a picture a small copy, or a photograph of ours where it is on a hub; noise for a clip or a mask."""
    if isinstance(value, list):
        return [_made(f"{name}-{i}", one, folder, size) for i, one in enumerate(value)]
    if len(size) != 2 or not name.startswith("image"):
        file = files(folder / name, size)
        assert isinstance(file, Path)
        return file.name
    shown = locate(value) if value.startswith(ASSET) else assets() / "calibration" / "coffee.jpg"
    file = folder / f"{name}-{shown.stem}.png"
    Image.open(shown).resize(size[::-1]).save(file)
    return file.name
