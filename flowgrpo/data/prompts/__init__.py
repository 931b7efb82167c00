"""Prompts: rows with whatever metadata they carry, from a file, a generator or a dataset of the hub.

A source is what a config or a command names:

    prompts.jsonl, asset:NAME       a file; whatever exists as one is one
    NAME[:SPLIT][?key=value&...]    a generator, named like a reward: a shipped one (`geneval:train?count=500&seed=0`),
                                    `module:attr`, `file.py:attr` or an entry point of the group `flowgrpo.prompts`
    hub:OWNER/NAME[/CONFIG]:COLUMN[?split=train&revision=...&count=...&fields=...]
                                    a dataset of the Hugging Face Hub (`_hub.py`)

A generator is a function `rows(split, count, seed)` to a list of rows, each a dict with a `prompt`. SPLIT is `train` (where none
is named) or `test`; the keys are its other parameters. It must give the same rows whenever it is called. Those that ship give
different ones, of which none is in both splits or in the benchmark of the same name. One file in this folder adds a generator.
"""

import math
import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.digests import digest, digest_of
from flowgrpo.core.errors import UserError, short, user_code
from flowgrpo.core.keys import numpy_generator
from flowgrpo.core.paths import ASSET, PICTURE, locate, pictures
from flowgrpo.data.prompt_sampler import PromptSampler
from flowgrpo.data.prompt_sampler.shuffled import Shuffled
from flowgrpo.data.rows import SUFFIXES, Row, read_rows

HUB = "hub:"
PROMPTS = (
    "a file (.txt, .csv, .tsv, .jsonl or .json), a generator such as geneval:test?count=20, or hub:OWNER/NAME:COLUMN?count=20"
)
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
    """`index` is the row in its source; `metadata` is the row untouched, `prompt` included.

    `conditions` are the pictures and clips that the row names, as files; `pictures` those that answer it, where they are trained;
    `wordings` the texts that the samples of a group are asked in turn, where they are not all asked `text`; `begun` is what each
    answer begins with.
    """

    index: int
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Files] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()
    wordings: tuple[str, ...] = ()
    begun: str = ""

    def in_wordings(self, column: str) -> "Prompt":
        """With its text and those under a column of the row as wordings. Errors: UserError where that holds no texts."""
        texts = self.metadata.get(column)
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(
                f"the prompt row {self.index + 1} has no list of texts under '{column}', which rollout.wordings reads"
            )
        return replace(self, wordings=(self.text, *texts))

    def asked_of(self, sample: int) -> "Prompt":
        """As it is asked of a sample of its group."""
        return replace(self, text=self.wordings[sample % len(self.wordings)]) if self.wordings else self


def load_prompts(source: str, conditions: bool = True) -> list[Prompt]:
    """Of a file: .txt (a prompt a line), or rows with a `prompt` and any metadata: .csv, .tsv, .jsonl, .json; `data.rows` says
    how they are read. Of a generator or the hub: their rows. All rows are checked.

    A row may name pictures and clips for the model to work from: `image`, `images` (a list), `video`, or a name of the model's
    own that ends so (`mask_image`). Paths are relative to the file, `asset:NAME` is what ships with flowgrpo. Without
    `conditions` such columns are metadata only.
    """
    path = locate(source)
    if is_file(source):
        rows, name, folder = read_rows(path), str(path), path.parent
    else:
        rows, name, folder = _made(source), source, Path()
    if not rows:
        raise UserError(f"{'prompt file ' if is_file(source) else ''}{name} holds no prompts")
    return prompts_of(rows, name, folder, conditions)


def is_file(source: str) -> bool:
    """Whether the source is a file of prompts that exists, rather than prompts that are made or fetched."""
    return not source.endswith(".py") and os.path.isfile(locate(source))


def at_hand(source: str) -> bool:
    """Whether the prompts of a source can be had on this machine alone: a file that exists, or a generator."""
    return is_file(source) or not (source.startswith((HUB, ASSET)) or names_file(source))


def names_file(source: str) -> bool:
    """Whether a source is the name of a file, there or not, by its suffix."""
    return Path(source.removesuffix(".gz")).suffix.lower() in SUFFIXES


def _made(source: str) -> list[Row]:
    if source.startswith(HUB):
        return _of_hub(source)
    from flowgrpo.data.prompts._generators import generated

    return generated(source)


@cache
def _of_hub(source: str) -> list[Row]:
    """Asked for once, so that a process pins what it works with."""
    from flowgrpo.data.prompts._hub import rows

    return rows(source)


def prompts_of(rows: Sequence[Mapping[str, Any]], source: str, folder: Path, conditions: bool = True) -> list[Prompt]:
    """The prompts of rows, all checked; `source` is what errors name, `folder` what the paths in rows are relative to."""
    files = [_conditions(row, folder, f"{source}, row {i}") if conditions else {} for i, row in enumerate(rows, 1)]
    return [Prompt(i, _text(row, f"{source}, row {i + 1}"), dict(row), files[i]) for i, row in enumerate(rows)]


def digest_of_prompts(source: str, conditions: bool = True, columns: Sequence[str] = ()) -> str:
    """Of what a source holds: a file by its content, all else by its rows; the sizes of the pictures and clips in them, but of
    those whose names are by content; and the contents of the files that `columns` name, as far as they are there.
    """
    prompts = load_prompts(source, conditions)
    named = [path for prompt in prompts for path in paths_of([*prompt.conditions.values()]) if path.parent != pictures()]
    sizes = [[str(path), path.stat().st_size] for path in named]
    held = digest(locate(source)) if is_file(source) else [prompt.metadata for prompt in prompts]
    folder = locate(source).parent if is_file(source) else locate("")
    answers = [folder / str(prompt.metadata.get(column)) for prompt in prompts for column in columns]
    contents = [digest(path) for path in answers if path.is_file()]
    return digest_of([held, sizes, *([contents] if columns else [])])


def _conditions(row: Mapping[str, Any], folder: Path, where: str) -> dict[str, Files]:
    named = {key: value for key, value in row.items() if CONDITION.fullmatch(key)}
    return {key: _files(value, folder, f"{where}: {key}") for key, value in named.items()}


def _files(value: Any, folder: Path, where: str) -> Files:
    """The files that a value names."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_files(item, folder, where) for item in value]
    if not isinstance(value, str):
        raise UserError(f"{where} must be a path or a list of paths, not {value!r}")
    file = locate(value) if value.startswith((ASSET, PICTURE)) else folder / value
    if not os.path.isfile(file):
        raise UserError(f"{where}: {short(file)} does not exist as a file; paths are relative to the prompt file")
    return file


def _text(row: Mapping[str, Any], where: str) -> str:
    text = row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: the prompt is missing or empty")
    return text


def plain(value: Any) -> bool:
    """Whether JSON can hold a value and give it back."""
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(entry) for key, entry in value.items())
    return value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value))


def batches(prompts: Sequence[Prompt], size: int, key: Callable[[Prompt], Hashable]) -> list[list[int]]:
    """The numbers of prompts with equal keys, `size` at a time, in order."""
    numbers: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        numbers.setdefault(key(prompt), []).append(i)
    return [alike[i : i + size] for alike in numbers.values() for i in range(0, len(alike), size)]


class PromptOrder:
    """Draws the prompts of update u: a function of (seed, u), and of what is known of their values where the sampler asks."""

    def __init__(self, prompts: Sequence[Prompt], per_update: int, seed: int, sampler: PromptSampler | None = None) -> None:
        if per_update > len(prompts):
            raise UserError(f"{per_update} prompts per update, but there are only {len(prompts)}")
        self.prompts, self.per_update, self.seed = prompts, per_update, seed
        self.sampler = sampler or Shuffled()

    def __call__(self, update: int, values: Mapping[int, float] | None = None) -> list[Prompt]:
        """`values` are in [0, 1], by the index of the prompt."""
        known = np.full(len(self.prompts), np.nan)
        if values:
            known = np.array([values.get(prompt.index, np.nan) for prompt in self.prompts])
        with user_code(f"prompt sampler '{self.sampler.type}'"):
            chosen = self.sampler.draw(self.per_update, update, self.seed, known)
        return [self.prompts[i] for i in self._checked(chosen)]

    def more(self, count: int, update: int, without: Sequence[Prompt]) -> list[Prompt]:
        """Up to `count` others for the same update."""
        taken = {prompt.index for prompt in without}
        order = numpy_generator((self.seed, "more prompts", update)).permutation(len(self.prompts))
        return [self.prompts[i] for i in order if self.prompts[i].index not in taken][:count]

    def _checked(self, chosen: object) -> list[int]:
        """Errors: UserError for something else than `per_update` different numbers of prompts."""
        numbers = chosen.tolist() if isinstance(chosen, np.ndarray) and chosen.dtype.kind in "iu" else None
        if numbers is None or len({*numbers}) != self.per_update or not {*numbers} <= {*range(len(self.prompts))}:
            raise UserError(
                f"prompt sampler '{self.sampler.type}' must return an array of {self.per_update} different whole numbers from 0 "
                f"to {len(self.prompts) - 1}"
            )
        return numbers
