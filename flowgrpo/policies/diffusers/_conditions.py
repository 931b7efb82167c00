"""From prompt rows to the arguments of a pipeline's call."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from flowgrpo.core.errors import UserError
from flowgrpo.data import media
from flowgrpo.data.media import Kind
from flowgrpo.data.prompts import CONDITION, Files, Prompt, paths_of
from flowgrpo.policies.diffusers._table import CONDITIONS, LISTED, ONE_TEXT, REPEATED, SINGLE, TEXT

NEGATIVE = "negative_prompt"
"""The column of prompt rows, and the argument."""
PICTURES = 256
"""Pictures and clips that are kept in memory."""


class Rows:
    """How prompt rows go into calls of one pipeline."""

    def __init__(self, pipeline: str, parameters: Mapping[str, Any]) -> None:
        self.pipeline, self.parameters = pipeline, parameters
        self.text = next((name for name in TEXT if name in parameters), None)
        self.count = next((name for name in parameters if name.endswith("_per_prompt")), None)
        self.needed = [name for name, p in parameters.items() if CONDITION.fullmatch(name) and p.default is p.empty]

    def calls(self, prompts: Sequence[Prompt]) -> list[slice]:
        """Rows that share a call: all of them, or, where rows have conditions, those of one prompt."""
        if self.pipeline in SINGLE:
            return [slice(i, i + 1) for i in range(len(prompts))]
        if self.text and self.pipeline not in ONE_TEXT and not any(prompt.conditions for prompt in prompts):
            return [slice(0, len(prompts))]
        slices, start = [], 0
        for _, rows in groupby(prompts, key=lambda prompt: (prompt.index, prompt.text)):
            size = len(list(rows))
            slices.append(slice(start, start + size))
            start += size
        return slices

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse a row whose pictures and clips the pipeline does not take or can't read, or that lacks one that it needs."""
        seen: set[tuple[Path, Kind | None]] = set()
        for prompt in prompts:
            try:
                self._refuse_missing([self._argument(key) for key in prompt.conditions])
                self.negative([prompt])
                named = {(file, _kind(key)) for key, files in prompt.conditions.items() for file in paths_of(files)}
                for file, kind in named - seen:
                    media.look(file, kind)
            except UserError as error:
                raise UserError(f"row {prompt.index + 1}: {error}") from error
            seen |= named

    def arguments(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Of one call: the texts of its rows, and the conditions that they share.

        Errors: UserError where a row has a condition that the pipeline does not take, or lacks one that it needs.
        """
        arguments: dict[str, Any] = {}
        for key, file in prompts[0].conditions.items():
            name = self._argument(key)
            opened = _opened(file, _kind(key))
            repeated = name in LISTED or self.pipeline in REPEATED
            arguments[name] = [opened] * len(prompts) if repeated else opened
        self._refuse_missing(arguments)
        if self.text and self.pipeline not in ONE_TEXT:
            return {**arguments, self.text: [prompt.text for prompt in prompts]}
        if self.text:
            arguments[self.text] = prompts[0].text
        if self.count and (self.text or self.pipeline not in REPEATED):
            arguments[self.count] = len(prompts)
        elif not self.text and not self.count:
            raise UserError(f"{self.pipeline} takes neither a text nor a number of samples per prompt")
        return arguments

    def negative(self, prompts: Sequence[Prompt], default: str = "") -> list[str] | None:
        """What rows say that they do not want, or the default; None where none says anything."""
        said = [prompt.metadata.get(NEGATIVE) for prompt in prompts]
        if not any(said):
            return None
        if NEGATIVE not in self.parameters:
            raise UserError(f"prompt rows have '{NEGATIVE}', but {self.pipeline} takes none; rename or leave out the column")
        if wrong := next((text for text in said if text and not isinstance(text, str)), None):
            raise UserError(f"'{NEGATIVE}' of a prompt row must be a text, not {wrong!r}")
        return [text or default for text in said]

    def _refuse_missing(self, given: Collection[str]) -> None:
        if missing := [name for name in self.needed if name not in given]:
            raise UserError(f"{self.pipeline} works from '{missing[0]}': name a file in that column of each prompt row")

    def _argument(self, key: str) -> str:
        for name in CONDITIONS.get(key, (key,)):
            if name in self.parameters:
                return name
        raise UserError(
            f"prompt rows have '{key}', but {self.pipeline} takes none; rename the column if only rewards read it "
            f"(it takes {', '.join(name for name in self.parameters if CONDITION.fullmatch(name)) or 'no pictures at all'})"
        )


def _kind(key: str) -> Kind | None:
    """A mask can be either."""
    return "video" if "video" in key else "image" if "image" in key else None


def _opened(files: Files, kind: Kind | None) -> Any:
    if isinstance(files, list):
        return [_opened(item, kind) for item in files]
    return None if files is None else _open(files, kind)


@lru_cache(PICTURES)
def _open(file: Path, kind: Kind | None) -> Image.Image | list[Image.Image]:
    pixels = media.read(file, kind)
    return [Image.fromarray(frame) for frame in pixels] if pixels.ndim == 4 else Image.fromarray(pixels)
