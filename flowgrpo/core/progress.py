"""Progress bars: one per phase, on the main process, and only on a terminal or in a notebook."""

import sys
from collections.abc import Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Sequence[T], phase: str, is_main: bool = True) -> "tqdm[T]":
    return tqdm(items, desc=phase, leave=False, disable=not (is_main and (sys.stderr.isatty() or _in_notebook())))


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
