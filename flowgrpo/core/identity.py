"""What the numbers on the disk depend on: flowgrpo itself, and whatever files, folders and code a setting names."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from flowgrpo.core.digests import digest, digest_of
from flowgrpo.core.held import OBJECT, fingerprint_of, source_of
from flowgrpo.core.paths import ASSET, locate
from flowgrpo.core.sources import source_digest, user_module
from flowgrpo.core.version import VERSION

INSIDE = ("", ".rewards", ".eval", ".assets")
"""The packages of flowgrpo that hold code; an editable install keeps them apart."""


@cache
def this_flowgrpo() -> str:
    """The version of flowgrpo, and a digest of its sources."""
    roots = [Path(str(files(f"flowgrpo{inside}"))) for inside in INSIDE]
    sources = {str(file.relative_to(root.parent)): digest(file) for root in roots for file in root.rglob("*.py")}
    return f"{VERSION} {digest_of(sources)}"


def named(settings: Any) -> dict[str, str]:
    """Digests by name of what exists of the objects, files, folders and modules of the user's that texts in `settings` name.

    `settings` is made of mappings, sequences and plain values. Code is named as everywhere, `file.py:attr` or `module:attr`, and
    counts with what it imports.
    """
    digests = ((text, _digest(text)) for text in _texts(settings))
    return {text: value for text, value in digests if value is not None}


def files_in(rows: Any) -> dict[str, str]:
    """Digests by name of the files that texts in rows name: a reward may open them."""
    return {text: digest(path) for text in _texts(rows) if os.path.isfile(path := Path(os.path.expanduser(text)))}


def _digest(text: str) -> str | None:
    if text.startswith(OBJECT):
        return fingerprint_of(text)
    if text.startswith("__main__:"):
        return digest_of(source_of(vars(sys.modules["__main__"]).get(text.removeprefix("__main__:"))))
    module = text if text.endswith(".py") else text.rpartition(":")[0]
    if module.endswith(".py") and os.path.isfile(module):
        return source_digest(Path(module))
    path = locate(text) if text.startswith(ASSET) else Path(os.path.expanduser(text))
    if text and os.path.exists(path):
        return digest(path)
    if module and all(part.isidentifier() for part in module.split(".")) and (file := user_module(module)):
        return source_digest(file, module)
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
