"""Which samples there are: files of a folder or glob, or the rows of a JSONL; and their prompts."""

import glob
import mimetypes
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
    if not source.strip():
        raise UserError("the name of what to score is empty; '.' is the folder that you are in")
    index = index_of(source)
    found = [] if index and not os.path.isdir(locate(source)) else _found(source)
    items = _indexed(index) if index else [Item(path, {}) for path in _known(found)]
    if not items:
        raise UserError(f"no pictures or clips in '{source}': name a folder, a quoted glob such as 'out/*.png', or a .jsonl")
    _tell_of_others(source, found, items)
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


def _found(source: str) -> list[Path]:
    path = locate(source)
    exact = glob.escape(str(path))
    pattern = f"{exact}/**" if os.path.isdir(path) else exact if os.path.isfile(path) else str(path)
    return sorted((Path(file).absolute() for file in glob.glob(pattern, recursive=True)), key=in_order)


def _known(files: Iterable[Path]) -> list[Path]:
    """The pictures and clips of files in order, each under one name, its own rather than that of a link."""
    named: dict[str, Path] = {}
    chosen = (file for file in files if file.suffix.lower() in PICTURES | CLIPS)
    for file in sorted(chosen, key=os.path.islink):
        named.setdefault(os.path.realpath(file), file)
    return sorted(named.values(), key=in_order)


def _tell_of_others(source: str, found: Sequence[Path], items: Sequence[Item]) -> None:
    """Say which pictures and clips are not scored: of a kind that is not read, or in no row of a folder's samples.jsonl."""
    read = {os.path.realpath(item.content) for item in items if os.path.isfile(item.content)}
    unread = [file.name for file in found if file.suffix.lower() not in PICTURES | CLIPS and _looks_like_one(file)]
    unnamed = [file.name for file in _known(found) if os.path.realpath(file) not in read]
    for names, why in ((unread, "of a kind that is not read"), (unnamed, "in no row of samples.jsonl")):
        if names:
            print(f"flowgrpo: '{source}' has {counted(len(names), 'file')} {why}, so not scored: {few(names)}", file=sys.stderr)


def _looks_like_one(file: Path) -> bool:
    return (mimetypes.guess_type(file.name)[0] or "").startswith(("image/", "video/"))


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
                f"{counted(len(lacking), what)} of {len(alike)} without a prompt ({few(lacking)}); give all one, in their rows "
                "or in NAME.txt, or none"
            )
    return captioned


def _with_caption(item: Item) -> Item:
    if item.prompt or isinstance(item.content, str):
        return item
    caption = Path(f"{os.path.splitext(item.content)[0]}.txt")
    return replace(item, row={**item.row, "prompt": text_of(caption).strip(" \t\r\n")}) if os.path.isfile(caption) else item
