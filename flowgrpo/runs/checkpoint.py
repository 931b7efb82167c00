"""Checkpoints: written beside their place and renamed into it, so that a checkpoint is whole or absent. No pickle."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowgrpo.config.sections import CheckpointConfig
from flowgrpo.core.errors import NotFinite, UserError
from flowgrpo.runs.folder import PREFIX, RunFolder


def update_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def write_checkpoint(run: Path, update: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder; it appears as `checkpoint-N` only when everything is on the disk."""
    final = run / f"{PREFIX}{update:06d}"
    partial = run / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        write(partial)
        for file in partial.rglob("*"):
            _sync(file)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(_failure(run, final, error)) from error
    if final.is_dir():
        _remove(final)
    partial.rename(final)
    _sync(run)
    return final


def retain(run: Path, config: CheckpointConfig, scores: Mapping[int, float]) -> None:
    """Remove all but the newest and the best checkpoints; `scores` are held-out scores by number of updates."""
    kept = RunFolder(run).checkpoints
    newest = {update_of(folder) for folder in kept[-config.keep_last :]}
    scored = [update for update in map(update_of, kept) if update in scores]
    best = sorted(scored, key=lambda update: (scores[update], update), reverse=True)[: config.keep_best]
    for folder in kept:
        if update_of(folder) not in newest | {*best}:
            _remove(folder)


def tidy(run: Path) -> None:
    """Remove what was being written, or removed, when a process ended."""
    for rest in (*run.glob(f".{PREFIX}*.partial"), *run.glob(f".{PREFIX}*.gone")):
        shutil.rmtree(rest, ignore_errors=True)


def set_aside(folders: Iterable[Path]) -> None:
    """Out of the way of a run that goes on from an earlier checkpoint, but not lost."""
    for folder in folders:
        aside = folder.with_name(f".{folder.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _remove(folder: Path) -> None:
    """At no time is there a half of a checkpoint."""
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(run: Path, final: Path, error: Exception) -> str:
    whole = RunFolder(run).checkpoints
    last = f"the last good checkpoint is {whole[-1]}" if whole else "there is no earlier checkpoint"
    return f"{final} could not be written ({error}); {last}; free some space and go on with --resume"


def save_state(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """One safetensors file per name, and `trainer.json`. Errors: NotFinite for weights that no run could go on from."""
    for kind, values in tensors.items():
        if broken := next((name for name, value in values.items() if not bool(torch.isfinite(value).all())), None):
            raise NotFinite(
                f"{kind} '{broken}' holds NaN or infinity, so no checkpoint was written; go on from the last one with --resume "
                "and a lower optimizer.lr"
            )
    folder.mkdir(parents=True)
    for kind, values in tensors.items():
        save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, folder / f"{kind}.safetensors")
    (folder / "trainer.json").write_text(json.dumps(facts, indent=2))


def load_state(checkpoint: Path, kinds: Iterable[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What `save_state` wrote: tensors of these kinds, and facts. Errors: UserError that names a missing or damaged file."""
    folder = checkpoint / "state"
    file = folder / "trainer.json"
    try:
        facts = json.loads(file.read_text())
        tensors = {}
        for kind in kinds:
            file = folder / f"{kind}.safetensors"
            tensors[kind] = load_file(file)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise damaged(file, checkpoint, "is missing" if not file.is_file() else f"is damaged ({error})") from error
    return tensors, facts


def newest_whole(run: Path, kinds: Iterable[str]) -> Path | None:
    """The last checkpoint with a state that can be read. Says which ones are passed over."""
    for checkpoint in reversed(RunFolder(run).checkpoints):
        try:
            load_state(checkpoint, kinds)
        except UserError as error:
            print(f"flowgrpo: {checkpoint.name} is passed over: {error}", file=sys.stderr)
        else:
            return checkpoint
    return None


def damaged(file: Path, checkpoint: Path, how: str) -> UserError:
    """The sentence for a checkpoint that can't be read, with the one before it as the way on."""
    earlier = [folder for folder in RunFolder(checkpoint.parent).checkpoints if folder.name < checkpoint.name]
    way = f"go on from the checkpoint before it with --resume {earlier[-1]}" if earlier else "there is no earlier checkpoint"
    return UserError(f"{file} {how}; {way}")


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's moments and step counts as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}|{key}": value for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: list[str]) -> None:
    """Errors: KeyError for a tensor of no parameter."""
    place = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("|")
        state.setdefault(place[name], {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
