"""A sample that is still where it was found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.data.media import Kind


@dataclass(frozen=True)
class Item:
    """The path of a picture or clip, or a text.

    `row` is its row, `prompt` included where there is one. `kind` is None for a file that says itself whether it is a clip.
    """

    content: Path | str
    row: dict[str, Any]
    kind: Kind | None = None

    @property
    def prompt(self) -> str:
        return self.row.get("prompt", "")
