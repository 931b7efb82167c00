"""Which samples there are: files of a folder or glob, or the rows of a JSONL; and their prompts."""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.data.media import CLIPS, PICTURES, Kind
from flowgrpo.data.rows import read_rows, text_of
from flowgrpo.evaluation.sheet.item import Item
from flowgrpo.evaluation.sheet.order import in_order
from flowgrpo.evaluation.sheet.pairing import counted, few, paired


def read_source(source: str, prompts: str | None = None) -> list[Item]:
    """All samples of a folder (with those below it, without hidden ones), glob or JSONL, in order of their names (`order`) or of
    the rows. A file counts once, however many links and ways lead to it.

    A row with "video" or "image" is that file, relative to the JSONL (with both, the clip, made from the picture), and "text"
    is metadata of it; a row with neither is the text itself. The prompt is that of the prompt file, which must fit (`pairing`),
    else of the row, else of NAME.txt beside the file, else empty: of all files, or of none.
    """
    index = index_of(source)
    items = _indexed(index) if index else [Item(path, {}) for path in _files(source)]
    if not items:
        raise UserError(f"no pictures or clips in '{source}': name a folder, a quoted glob such as 'out/*.png', or a .jsonl")
    if index and os.path.isdir(locate(source)):
        _tell_of_others(source, items)
    if prompts is not None:
        return paired(items, prompts, in_rows=index is not None)
    return _captioned(items)


def index_of(source: str) -> Path | None:
    """The JSONL that `source` names, or the samples.jsonl of its folder (`flowgrpo sample` writes one)."""
    path = locate(source)
    if os.path.isdir(path):
        path = path / "samples.jsonl"
        return path.resolve() if path.is_file() else None
    return path.resolve() if path.name.lower().endswith((".jsonl", ".jsonl.gz")) else None


def _files(source: str) -> list[Path]:
    path = locate(source)
    exact = glob.escape(str(path))
    pattern = f"{exact}/**" if os.path.isdir(path) else exact if os.path.isfile(path) else str(path)
    found = [Path(file).absolute() for file in glob.glob(pattern, recursive=True)]
    return _once(file for file in found if file.suffix.lower() in PICTURES | CLIPS)


def _once(files: Iterable[Path]) -> list[Path]:
    """Each file under one name, its own rather than that of a link."""
    named: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (os.path.islink(file), in_order(file))):
        named.setdefault(os.path.realpath(file), file)
    return sorted(named.values(), key=in_order)


def _tell_of_others(folder: str, items: Sequence[Item]) -> None:
    """Say which pictures and clips are not scored, since the folder's samples.jsonl has no row for them."""
    known = {os.path.realpath(item.content) for item in items if isinstance(item.content, Path)}
    if others := [file.name for file in _files(folder) if os.path.realpath(file) not in known]:
        told = f"{counted(len(others), 'file')} in no row of samples.jsonl, so not scored: {few(others)}"
        print(f"flowgrpo: '{folder}' holds {told}", file=sys.stderr)


def _indexed(index: Path) -> list[Item]:
    items = [_item(row, index, number) for number, row in enumerate(read_rows(index), 1)]
    if not items:
        raise UserError(f"{index} has no rows")
    return items


def _item(row: dict[str, Any], index: Path, number: int) -> Item:
    kinds: tuple[Kind, ...] = ("video", "image")
    kind = next((kind for kind in kinds if kind in row), None)
    content = row.get(kind or "text")
    if not isinstance(content, str):
        raise UserError(f"{index}, row {number}: must have an 'image' or a 'video' (a path), or a 'text'")
    if not isinstance(row.get("prompt", ""), str):
        raise UserError(f"{index}, row {number}: the prompt must be a text")
    return Item(index.parent / content if kind else content, row, kind)


def _captioned(items: Sequence[Item]) -> list[Item]:
    captioned = [_with_caption(item) for item in items]
    for what, kind in (("file", Path), ("text", str)):
        alike = [item for item in captioned if isinstance(item.content, kind)]
        lacking = [str(item.content) for item in alike if not item.prompt]
        if lacking and len(lacking) < len(alike):
            raise UserError(
                f"{counted(len(lacking), what)} of {len(alike)} without a prompt ({few(lacking)}); give all one, in their rows or "
                "in NAME.txt, or none"
            )
    return captioned


def _with_caption(item: Item) -> Item:
    if item.prompt or isinstance(item.content, str):
        return item
    caption = Path(f"{os.path.splitext(item.content)[0]}.txt")
    return replace(item, row={**item.row, "prompt": text_of(caption).strip(" \t\r\n")}) if os.path.isfile(caption) else item
