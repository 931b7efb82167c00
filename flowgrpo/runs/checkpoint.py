"""Checkpoints: written beside their place and renamed into it, so that a checkpoint is whole or absent. No pickle."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter

from flowgrpo.config.sections import CheckpointConfig
from flowgrpo.core.errors import NotFinite, UserError
from flowgrpo.core.parts import in_parts, own, share_out
from flowgrpo.core.processes import LONE, Processes
from flowgrpo.runs.folder import PREFIX, RunFolder

STEP = "step"


def update_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


class Writer:
    """Writes, one thing after the other: each in a thread while the run goes on, or where `at_once` before it does."""

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.worker = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def __call__(self, write: Callable[[], None]) -> None:
        """Errors: those of what was written before."""
        self.settle()
        if self.at_once:
            write()
        else:
            self.writing = self.worker.submit(write)

    def check(self) -> None:
        """Errors: those of what has been written, as soon as they are known."""
        if self.writing and self.writing.done():
            self.settle()

    def settle(self) -> None:
        """Wait until all is written. Errors: those of it, once."""
        if self.writing:
            error = self.writing.exception()
            self.writing = None
            if error:
                raise error


def write_checkpoint(run: Path, update: int, write: Callable[[Path], None], writers: Processes = LONE) -> None:
    """Let all `writers` fill a folder together; it appears as `checkpoint-N` only when everything is on the disk."""
    final = run / f"{PREFIX}{update:06d}"
    unfinished = run / f".{final.name}.partial"
    try:
        writers.once(lambda: _emptied(unfinished))
        write(unfinished)
        writers.once(lambda: _appear(unfinished, final))
    except (OSError, SafetensorError, CheckpointException) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(_failure(run, final, error)) from error


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _appear(unfinished: Path, final: Path) -> None:
    for file in unfinished.rglob("*"):
        _sync(file)
    if final.is_dir():
        _remove(final)
    unfinished.rename(final)
    _sync(final.parent)


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


def _failure(run: Path, final: Path, error: BaseException) -> str:
    whole = RunFolder(run).checkpoints
    last = f"the last good checkpoint is {whole[-1]}" if whole else "there is no earlier checkpoint"
    return f"{final} could not be written ({error}); {last}; free some space and go on with --resume"


def save_state(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], writers: Processes = LONE
) -> None:
    """One safetensors file per name, and `trainer.json`; tensors in parts are written by all `writers` together."""
    writers.once(partial(folder.mkdir, parents=True))
    for kind, values in tensors.items():
        file = folder / f"{kind}.safetensors"
        if any(map(in_parts, values.values())):
            _save_together(values, file, writers)
        else:
            writers.once(partial(_save, values, file))
    writers.once(lambda: (folder / "trainer.json").write_text(json.dumps(facts, indent=2)))


def require_finite(tensors: Mapping[str, Mapping[str, Tensor]], processes: Processes) -> None:
    """Errors: NotFinite for a state that no run could go on from."""
    named = ((kind, name, value) for kind, values in tensors.items() for name, value in values.items())
    broken = next(((kind, name) for kind, name, value in named if not bool(torch.isfinite(own(value)).all())), None)
    if found := next(filter(None, processes.gather([broken])), None):
        raise NotFinite(
            f"{found[0]} '{found[1]}' holds NaN or infinity, so no checkpoint was written; go on from the last one with --resume "
            "and a lower optimizer.lr"
        )


def _save(values: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, file)


def _save_together(values: Mapping[str, Tensor], file: Path, writers: Processes) -> None:
    """Each of the processes writes its parts, and one puts them together to the file of whole tensors.

    torch 2.15 puts 0 in the place of a tensor without dimensions.
    """
    assert all(value.ndim for value in values.values())
    parts = file.with_suffix(".parts")
    storage = HuggingFaceStorageWriter(str(parts), save_distributed=True, enable_consolidation=True)
    torch.distributed.checkpoint.save(dict(values), storage_writer=storage, process_group=writers.group)
    writers.once(lambda: _take_out(parts, file))


def _take_out(parts: Path, file: Path) -> None:
    (whole,) = parts.glob("*.safetensors")
    whole.rename(file)
    shutil.rmtree(parts)


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
    """AdamW's moments and step counts [1] as named tensors."""
    state = optimizer.state_dict()["state"]
    moments = {f"{names[i]}|{key}": value for i, entry in state.items() for key, value in entry.items()}
    return {name: value if value.ndim else value[None] for name, value in moments.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Moments lie as their parameters do. Errors: KeyError for a tensor of no parameter."""
    place = {name: i for i, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("|")
        state.setdefault(place[name], {})[moment] = value.squeeze() if moment == STEP else share_out(value, parameters[name])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
