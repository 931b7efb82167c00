"""Where shipped things are, and how a config names them."""

from importlib.resources import files
from pathlib import Path

ASSET = "asset:"
PICTURE = "picture:"


def assets() -> Path:
    return Path(str(files("flowgrpo.assets")))


def configs() -> Path:
    return Path(str(files("flowgrpo.configs")))


def pictures() -> Path:
    """Where the pictures of rows from the hub are kept, under names by content."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "flowgrpo-pictures"


def locate(source: str) -> Path:
    """`asset:NAME` is a file or folder that ships with flowgrpo, `picture:NAME` a picture of a row from the hub; anything else a
    path as the user wrote it.
    """
    if source.startswith(ASSET):
        return assets() / source.removeprefix(ASSET)
    return pictures() / source.removeprefix(PICTURE) if source.startswith(PICTURE) else Path(source).expanduser()
