"""Where shipped things are, and how a config names them."""

from importlib.resources import files
from pathlib import Path

ASSET = "asset:"


def assets() -> Path:
    return Path(str(files("flowgrpo.assets")))


def configs() -> Path:
    return Path(str(files("flowgrpo.configs")))


def locate(source: str) -> Path:
    """`asset:NAME` is a file or folder that ships with flowgrpo; anything else a path as the user wrote it."""
    return assets() / source.removeprefix(ASSET) if source.startswith(ASSET) else Path(source).expanduser()
