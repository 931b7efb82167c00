"""What the folder of a pipeline says of its components."""

from pathlib import Path
from typing import Any

from flowgrpo.core.whole import read_json


def index_of(folder: Path) -> dict[str, Any]:
    """The library and class of each component by its name; nothing where there is no such folder. Errors: UserError for a damaged
    model_index.json."""
    file = folder / "model_index.json"
    return read_json(file) if file.is_file() else {}


def absent(folder: Path) -> dict[str, None]:
    """Components that the folder lists as null; diffusers wants to be told of those that its class does not call optional."""
    return {name: None for name, value in index_of(folder).items() if value == [None, None]}
