"""Prompts: rows of a file, with whatever metadata they carry."""

import os
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError, short
from flowgrpo.core.keys import numpy_generator
from flowgrpo.core.paths import locate
from flowgrpo.data.rows import read_rows

CONDITION = re.compile(r"(\w+_)?(image|images|video|videos|mask)")
"""Columns of a prompt file that name pictures or clips for the model to work from."""


Files = Path | list["Files"] | None
"""What a row names: a file, a list (or lists of lists), or nothing (null)."""


def paths_of(files: Files) -> list[Path]:
    """The files alone, in order."""
    if isinstance(files, list):
        return [path for item in files for path in paths_of(item)]
    return [] if files is None else [files]


@dataclass(frozen=True)
class Prompt:
    """`index` is the row in its file; `metadata` is the row untouched, `prompt` included.

    `conditions` are the pictures and clips that the row names, as files.
    """

    index: int
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Files] = field(default_factory=dict)


def load_prompts(source: str, conditions: bool = True) -> list[Prompt]:
    """.txt (a prompt a line), or rows with a `prompt` and any metadata: .csv, .tsv, .jsonl, .json; `data.rows` says how they are
    read. All rows are checked.

    A row may name pictures and clips for the model to work from: `image`, `images` (a list), `video`, or a name of the model's
    own that ends so (`mask_image`). Paths are relative to the file. Without `conditions` such columns are metadata only.
    """
    path = locate(source)
    if not os.path.isfile(path):
        raise UserError(f"prompt file {path} does not exist")
    rows = read_rows(path)
    if not rows:
        raise UserError(f"prompt file {path} holds no prompts")
    files = [_conditions(row, path, i) if conditions else {} for i, row in enumerate(rows)]
    return [Prompt(i, _text(row, path, i), row, files[i]) for i, row in enumerate(rows)]


def _conditions(row: dict[str, Any], path: Path, index: int) -> dict[str, Files]:
    named = {key: value for key, value in row.items() if CONDITION.fullmatch(key)}
    return {key: _files(value, path, f"{path}, row {index + 1}: {key}") for key, value in named.items()}


def _files(value: Any, path: Path, where: str) -> Files:
    """The files that a value names, from the folder of the prompt file."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_files(item, path, where) for item in value]
    if not isinstance(value, str):
        raise UserError(f"{where} must be a path or a list of paths, not {value!r}")
    file = path.parent / value
    if not os.path.isfile(file):
        raise UserError(f"{where}: {short(file)} does not exist as a file; paths are relative to the prompt file")
    return file


def _text(row: dict[str, Any], path: Path, index: int) -> str:
    text = row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{path}, row {index + 1}: the prompt is missing or empty")
    return text


def batches(prompts: Sequence[Prompt], size: int, key: Callable[[Prompt], Hashable]) -> list[list[int]]:
    """The places of prompts with equal keys, `size` at a time, in order."""
    places: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(key(prompt), []).append(i)
    return [alike[i : i + size] for alike in places.values() for i in range(0, len(alike), size)]


class PromptSampler:
    """Draws the prompts of update u: a fresh permutation per epoch, without replacement, a function of (seed, u) only."""

    def __init__(self, prompts: Sequence[Prompt], per_update: int, seed: int) -> None:
        if per_update > len(prompts):
            raise UserError(f"{per_update} prompts per update, but the prompt file holds only {len(prompts)}")
        self.prompts, self.per_update, self.seed = prompts, per_update, seed
        self.updates_per_epoch = len(prompts) // per_update

    def __call__(self, update: int) -> list[Prompt]:
        epoch, place = divmod(update, self.updates_per_epoch)
        order: np.ndarray = numpy_generator((self.seed, "prompts", epoch)).permutation(len(self.prompts))
        chosen = order[place * self.per_update : (place + 1) * self.per_update]
        return [self.prompts[i] for i in chosen]
