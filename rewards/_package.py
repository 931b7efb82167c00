"""What rewards share that need a package or a device."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from flowgrpo.core.errors import UserError


def package(name: str) -> Any:
    """An optional package of the extra `rewards`, or the sentence that says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise _missing(name) from error


def folder(name: str) -> Path:
    """Where such a package lies, for what ships inside it; nothing of it runs."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise _missing(name)
    return Path(spec.origin).parent


def _missing(name: str) -> UserError:
    return UserError(f"this reward needs the package '{name}'; run: pip install 'flowgrpo[rewards]'")


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device '{name}'; say auto, cpu, cuda or cuda:N") from error
