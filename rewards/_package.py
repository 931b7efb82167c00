"""What rewards share that need a package or a device."""

import importlib
from typing import Any

import torch

from flowgrpo.errors import UserError


def package(name: str) -> Any:
    """An optional package of the extra `rewards`, or the sentence that says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise UserError(f"this reward needs the package '{name}'; run: pip install 'flowgrpo[rewards]'") from error


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
