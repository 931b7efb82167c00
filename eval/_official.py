"""What benchmarks share whose prompts come in official files: where a file is, whether it is the right one, what it holds."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download

from flowgrpo.core.errors import UserError
from flowgrpo.data import rows
from flowgrpo.data.prompts import Prompt

T = TypeVar("T")
HUB = "hf:"


def official(path: Path | str | None, count: int | None, sha256: str | None, hint: str) -> Path:
    """The user's copy of an official file or folder, of the right sha256 where one is given.

    `hf:OWNER/NAME[/FILE][@REVISION]` is a file, a folder or all of a dataset of the Hugging Face Hub. `count` is how many prompts
    the official file has (`counted` checks it), `hint` says where it is: `get x.csv from https://...`.
    """
    if path is None:
        number = "" if count is None else f"{count} "
        raise UserError(f"the {number}official prompts do not ship with flowgrpo; {hint}, and give the path with --file")
    file = _downloaded(str(path)) if str(path).startswith(HUB) else Path(path).expanduser()
    if not file.exists():
        raise UserError(f"{path} does not exist; {hint}")
    if sha256 is not None and (digest := hashlib.sha256(file.read_bytes()).hexdigest()) != sha256:
        raise UserError(f"{path} is not the official file: its sha256 is {digest}, not {sha256}; {hint}")
    return file


def _downloaded(name: str) -> Path:
    place, _, revision = name.removeprefix(HUB).partition("@")
    owner, _, rest = place.partition("/")
    dataset, _, file = rest.partition("/")
    if not dataset:
        raise UserError(f"'{name}' must have the form hf:OWNER/NAME, with /FILE and @REVISION if you like")
    wanted = [file, f"{file}/*"] if file else None
    try:
        folder = snapshot_download(f"{owner}/{dataset}", repo_type="dataset", revision=revision or None, allow_patterns=wanted)
    except (OSError, ValueError) as error:
        raise UserError(f"'{name}' can't be had from the hub ({type(error).__name__}); download it and give its path") from error
    return Path(folder) / file


def member(folder: Path | str | None, name: str) -> str | None:
    """The path of a file in a folder, here or on the hub."""
    if folder is None:
        return None
    place, at, revision = str(folder).partition("@") if str(folder).startswith(HUB) else (str(folder), "", "")
    return f"{place.rstrip('/')}/{name}{at}{revision}"


def counted(rows: Sequence[T], count: int | None, path: Path | str) -> list[T]:
    """The rows, if they are as many as in the official file (None: any number but 0)."""
    if not rows or (count is not None and len(rows) != count):
        raise UserError(f"{path} holds {len(rows)} prompts instead of {count or 'at least one'}; get the official file anew")
    return list(rows)


def prompts(stated: Sequence[dict[str, Any]], count: int | None, path: Path | str) -> list[Prompt]:
    """One prompt a row, its text under `prompt`."""
    prompts = [Prompt(i, str(row["prompt"]), row) for i, row in enumerate(counted(stated, count, path))]
    if empty := [prompt for prompt in prompts if not prompt.text.strip()]:
        raise UserError(f"{path}, prompt {empty[0].index + 1}: the prompt is empty; get the official file anew")
    return prompts


def read(path: Path) -> str:
    """The text of a file."""
    _refuse_folder(path)
    return rows.text_of(path)


def _refuse_folder(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is a folder, but must be the official file itself")


def lines(path: Path) -> list[str]:
    """The lines of a file that are not blank, without the blanks around them."""
    _refuse_folder(path)
    return [line.strip() for _, line in rows.lines_of(path)]


def read_json(path: Path) -> Any:
    return rows.json_of(read(path), str(path))


def json_lines(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, which must all have these keys."""
    _refuse_folder(path)
    return rows.json_lines(path, keys)


def table(path: Path, columns: Sequence[str], dialect: type[csv.Dialect] = csv.excel) -> list[dict[str, str]]:
    """The rows of a file of delimited values that has these columns, each value without the space around it."""
    _refuse_folder(path)
    lines = rows.table(path, dialect, missing="")
    if missing := [column for column in columns if lines and column not in lines[0]]:
        raise UserError(f"{path} has no column '{missing[0]}'; the official file has {', '.join(columns)}")
    return [{column: row[column].strip() for column in columns} for row in lines]
