"""Files that are whole or absent: written beside their place and renamed into it; and places that can be written to."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError, short


def require_writable(folder: Path | str, name: str) -> Path:
    """Before anything is loaded: can files be made in this folder, or in the one that it will be made in? `name` is its option.

    Errors: UserError where not.
    """
    place = Path(folder).absolute()
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"1")
    except (OSError, ValueError) as error:
        raise UserError(f"nothing can be written to {name} = {short(folder)!r} ({error}); choose another") from error
    return Path(folder)


def write_text(path: Path, text: str) -> None:
    """What was there stays until all of the text is on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """They are on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[str]:
    """Of a file that grows: a last line that its writer could not finish does not count. Empty where there is no file.

    Errors: UserError for a file that is no text.
    """
    try:
        whole, _, _ = (path.read_bytes() if path.is_file() else b"").rpartition(b"\n")
        text = whole.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); bring it back, or begin anew") from error
    return text.split("\n") if text else []


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write_text(path, json.dumps(value, indent=indent))


def read_json(path: Path) -> Any:
    """Errors: UserError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; bring it back, or begin anew") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); bring it back, or begin anew") from error
