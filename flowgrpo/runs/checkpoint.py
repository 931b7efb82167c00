"""Checkpoints: written beside their place and renamed into it, so that a checkpoint is whole or absent. No pickle."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowgrpo.core.errors import UserError

PREFIX = "checkpoint-"


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(run.glob(f"{PREFIX}[0-9]*"))


def write_checkpoint(run: Path, update: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder; it appears as `checkpoint-N` only when everything is on the disk."""
    final = run / f"{PREFIX}{update:06d}"
    partial = run / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        for file in partial.rglob("*"):
            _sync(file)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(_failure(run, final, error)) from error
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(run)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(run: Path, final: Path, error: Exception) -> str:
    whole = checkpoints(run)
    last = f"the last good checkpoint is {whole[-1]}" if whole else "there is no earlier checkpoint"
    return f"{final} could not be written ({error}); {last}; free some space and go on with --resume"


def save_state(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """One safetensors file per name, and `trainer.json`."""
    folder.mkdir(parents=True)
    for name, values in tensors.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, folder / f"{name}.safetensors")
    (folder / "trainer.json").write_text(json.dumps(facts, indent=2))


def load_state(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    tensors = {file.stem: load_file(file) for file in folder.glob("*.safetensors")}
    return tensors, json.loads((folder / "trainer.json").read_text())


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's moments and step counts as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}|{key}": value for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: list[str]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("|")
        state.setdefault(names.index(name), {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
