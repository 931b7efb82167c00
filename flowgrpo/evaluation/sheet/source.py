"""Which samples there are: files of a folder or glob, or the rows of a JSONL; and their prompts."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.data.media import CLIPS, PICTURES
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.rows import read_rows


@dataclass(frozen=True)
class Item:
    """A sample that is still where it was found: the path of a picture or clip, or a text.

    `row` is its row, `prompt` included where there is one. `kind` is None for a file that says itself whether it is a clip.
    """

    content: Path | str
    row: dict[str, Any]
    kind: Literal["image", "video"] | None = None

    @property
    def prompt(self) -> str:
        return self.row.get("prompt", "")


def read_source(source: str, prompts: str | None = None) -> list[Item]:
    """All samples of a folder (with those below it, without hidden ones), glob or JSONL, in sorted order or that of the rows.

    A row with "video" or "image" is that file, relative to the JSONL (with both, the clip, made from the picture), and "text"
    is metadata of it; a row with neither is the text itself. The prompt is that of the prompt file, else of the row, else of
    NAME.txt beside the file, else empty.
    """
    index = index_of(source)
    items = _indexed(index) if index else [Item(path, {}) for path in _files(source)]
    if prompts is not None:
        items = _prompted(items, prompts)
    return [_captioned(item) for item in items]


def index_of(source: str) -> Path | None:
    """The JSONL that `source` names, or the samples.jsonl of its folder (`flowgrpo sample` writes one)."""
    path = locate(source).resolve()
    if path.is_dir():
        path = path / "samples.jsonl"
        return path if path.is_file() else None
    return path if path.suffix == ".jsonl" else None


def _files(source: str) -> list[Path]:
    path = locate(source)
    exact = glob.escape(str(path))
    pattern = f"{exact}/**" if path.is_dir() else exact if path.is_file() else str(path)
    found = map(Path, glob.glob(pattern, recursive=True))
    files = sorted(file.absolute() for file in found if file.suffix.lower() in PICTURES | CLIPS)
    if not files:
        raise UserError(f"no pictures or clips in '{source}': name a folder, a quoted glob such as 'out/*.png', or a .jsonl")
    return files


def _indexed(index: Path) -> list[Item]:
    if not index.is_file():
        raise UserError(f"{index}: no such file")
    items = [_item(row, index, number) for number, row in enumerate(read_rows(index), 1)]
    if not items:
        raise UserError(f"{index} has no rows")
    return items


def _item(row: dict[str, Any], index: Path, number: int) -> Item:
    kinds: tuple[Literal["image", "video"], ...] = ("video", "image")
    kind = next((kind for kind in kinds if kind in row), None)
    content = row.get(kind or "text")
    if not isinstance(content, str):
        raise UserError(f"{index}, row {number}: must have an 'image' or a 'video' (a path), or a 'text'")
    if not isinstance(row.get("prompt", ""), str):
        raise UserError(f"{index}, row {number}: the prompt must be a text")
    return Item(index.parent / content if kind else content, row, kind)


def _prompted(items: Sequence[Item], source: str) -> list[Item]:
    """With the rows of a prompt file on top of their own."""
    prompts = load_prompts(source, conditions=False)
    named = {PurePath(name).parts: prompt for prompt in prompts if (name := _name(prompt))}
    if named:
        prompts = [_row_of(item, named, source) for item in items]
    elif len(prompts) != len(items):
        raise UserError(
            f"{source} has {len(prompts)} rows for {len(items)} samples; give each sample its row, in sorted order, or name "
            "the samples in a column 'image'"
        )
    return [replace(item, row={**item.row, **prompt.metadata}) for item, prompt in zip(items, prompts, strict=True)]


def _name(prompt: Prompt) -> str:
    return str(prompt.metadata.get("image") or prompt.metadata.get("video") or "")


def _row_of(item: Item, named: Mapping[tuple[str, ...], Prompt], source: str) -> Prompt:
    """The row whose name is the end of the file's path, the longest where there are several."""
    parts = item.content.parts if isinstance(item.content, Path) else ()
    for start in range(len(parts)):
        if parts[start:] in named:
            return named[parts[start:]]
    raise UserError(f"no row of {source} has '{item.content}' as its image; add it, or leave the column out")


def _captioned(item: Item) -> Item:
    if item.prompt or isinstance(item.content, str):
        return item
    caption = item.content.with_suffix(".txt")
    if not caption.is_file():
        return item
    return replace(item, row={**item.row, "prompt": caption.read_text(encoding="utf-8", errors="replace").strip()})
