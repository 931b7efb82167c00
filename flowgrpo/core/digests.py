"""Digests of what is on the disk, by content: a file that was replaced has another one, whatever its times say."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError, short


def digest(path: Path) -> str:
    """sha256 of a file; or of a folder: the names and contents of all files below it, without hidden ones and caches."""
    if not os.path.exists(path):
        raise UserError(f"{short(path)}: no such file")
    try:
        if path.is_file():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        return digest_of({str(file.relative_to(path)): digest(file) for file in _below(path)})
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}), and results depend on it") from error


def digest_of(facts: Any) -> str:
    """sha256 of what JSON can hold; the order of a mapping's keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _below(folder: Path) -> Iterator[Path]:
    """All files, also behind links, each folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if _counts(name) and os.path.realpath(f"{root}/{name}") not in seen)
        seen.update(os.path.realpath(f"{root}/{name}") for name in folders)
        yield from (Path(root, name) for name in sorted(files) if _counts(name) and Path(root, name).is_file())


def _counts(name: str) -> bool:
    return not name.startswith(".") and name != "__pycache__"
