"""Where shipped things are, and how a config names them."""

from importlib.resources import files
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest

ASSET = "asset:"
PICTURE = "picture:"


def assets() -> Path:
    return Path(str(files("flowgrpo.assets")))


def configs() -> Path:
    return Path(str(files("flowgrpo.configs")))


def pictures() -> Path:
    """Where the pictures of rows from the hub are kept, under names by content."""
    return Path(HF_HOME) / "flowgrpo-pictures"


def locate(source: str) -> Path:
    """`asset:NAME` is a file or folder that ships with flowgrpo, `picture:NAME` a picture of a row from the hub; anything else a
    path as the user wrote it.
    """
    if source.startswith(ASSET):
        return assets() / source.removeprefix(ASSET)
    return pictures() / source.removeprefix(PICTURE) if source.startswith(PICTURE) else Path(source).expanduser()


def recipes() -> dict[str, Path]:
    """Shipped recipes by name, e.g. `mini/flow_grpo`."""
    root = configs()
    return {str(p.relative_to(root).with_suffix("")): p for p in sorted(root.rglob("*.yaml"))}


def find_config(source: str) -> Path:
    """A path, or the name of a shipped recipe."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    known = recipes()
    name = source.removeprefix("configs/").removesuffix(".yaml")
    if name in known:
        return known[name]
    raise UserError(f"no config file or shipped recipe '{source}' ({nearest(name, known)})")


def find_base(path: Path, base: str) -> Path:
    """What the file `path` names as its base: a file beside it, with or without its suffix, or what `find_config` finds."""
    beside = [path.parent / f"{base}{suffix}" for suffix in ("", ".yaml", ".yml")]
    others = (file for file in beside if file.is_file() and (file == beside[0] or not file.samefile(path)))
    if found := next(others, None):
        return found
    try:
        return find_config(base)
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from error


def recipe_name(source: str) -> str:
    """What the runs of a config file or shipped recipe are called."""
    return Path(source).stem if Path(source).is_file() else source.replace("/", "-")
