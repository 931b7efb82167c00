"""What a folder's results are of, written down in it, so that results of something else are never mixed with them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import read_json, write_json

PIN = "settings.json"


def pinned(folder: Path) -> dict[str, Any] | None:
    """What the results in `folder` are of; None where nothing says so."""
    file = folder / PIN
    return read_json(file) if file.is_file() else None


def write_pin(folder: Path, facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PIN, facts, indent=1)


def pin(folder: Path, facts: Mapping[str, Any], results: str) -> None:
    """Write down what the results in `folder` are of, or refuse it where they are of something else.

    `results` is the pattern of the files that hold any. Errors: UserError that names what differs, and what to do.
    """
    stated, before = json.loads(json.dumps(facts)), pinned(folder)
    if before is None and next(folder.glob(results), None):
        raise UserError(f"{folder} holds results without {PIN}, which says what they are of; choose another --out")
    if before is not None and (differ := [key for key in stated if before.get(key) != stated[key]]):
        raise UserError(f"{folder} holds results with other {', '.join(differ)}; choose another --out, or remove that folder")
    write_pin(folder, stated)


def renew(folder: Path, facts: Mapping[str, Any]) -> None:
    """Keep what `folder` holds if it is of these facts, and else remove it."""
    stated = json.loads(json.dumps(facts))
    if pinned(folder) != stated:
        shutil.rmtree(folder, ignore_errors=True)
        write_pin(folder, stated)
