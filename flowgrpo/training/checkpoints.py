"""When a run's checkpoints are written, by whom, and what they hold."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from flowgrpo.config.run import Config, dump
from flowgrpo.core.parts import copies
from flowgrpo.core.processes import LONE, Processes
from flowgrpo.core.whole import write_text
from flowgrpo.runs.checkpoint import Writer, require_finite, retain, save_state, write_checkpoint
from flowgrpo.runs.model_card import model_card
from flowgrpo.runs.run import Run
from flowgrpo.training.trainer import Trainer

Tensors = Mapping[str, Mapping[str, Tensor]]


class Checkpoints:
    """Of a run. The main process writes, or where weights are shared out all `writers`."""

    def __init__(self, config: Config, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.writers = processes.beside() if config.distributed.shared_by(processes.count) > 1 else LONE
        self.writer = Writer(at_once=not config.checkpoints.background)
        self.settle = self.writer.settle
        self.written = time.monotonic()
        """When the last one was."""

    def due(self, done: int, evaluated: bool, last: bool) -> bool:
        """After so many updates. Errors: those of what has been written, as soon as they are known."""
        when = self.config.checkpoints
        overdue = time.monotonic() - self.written > 60.0 * when.minutes
        writes = done % when.every == 0 or overdue or (evaluated and when.keep_best > 0) or last
        if writes:
            self.settle()
        else:
            self.writer.check()
        return writes

    def __call__(self, run: Run, trainer: Trainer, seconds: float) -> None:
        """Write one of what is trained now, after so many seconds of training."""
        self.written = time.monotonic()
        if self.writers is LONE and not self.processes.is_main:
            return
        tensors, facts = trainer.state()
        require_finite(tensors, self.processes if self.processes.lockstep else LONE)
        parts = self._parts(trainer, tensors, {**facts, "seconds": seconds})
        scores = self._scores(run) if self.processes.is_main else {}
        self.writer(partial(self._write, run, trainer.updates, parts if self.writer.at_once else [*parts], scores))

    def _parts(self, trainer: Trainer, tensors: Tensors, facts: dict[str, Any]) -> Iterator[Callable[[Path], object]]:
        """Ways to write what a checkpoint holds, each made when it is asked for, and then of what was trained until then. `ema/`
        holds the averaged weights in the format of the trained ones."""
        once, updates = self.writers.once, trainer.updates
        if not self.writer.at_once:
            tensors, facts = {kind: copies(values) for kind, values in tensors.items()}, deepcopy(facts)
        yield lambda folder: save_state(folder / "state", tensors, facts, self.writers)
        trained = trainer.policy.export()
        yield lambda folder: once(lambda: trained(folder))
        if trainer.ema:
            with trainer.ema.applied():
                average = trainer.policy.export()
            yield lambda folder: once(lambda: average(folder / "ema"))
        yield lambda folder: once(lambda: self._describe(folder, updates))

    def _describe(self, checkpoint: Path, updates: int) -> None:
        write_text(checkpoint / "config.yaml", dump(self.config))
        (checkpoint / "README.md").write_text(model_card(self.config, updates))

    def _write(self, run: Run, update: int, parts: Iterable[Callable[[Path], object]], scores: Mapping[int, float]) -> None:
        def fill(checkpoint: Path) -> None:
            for part in parts:
                part(checkpoint)

        write_checkpoint(run.path, update, fill, self.writers)
        if self.processes.is_main:
            retain(run.path, self.config.checkpoints, scores)

    def _scores(self, run: Run) -> dict[int, float]:
        """Held-out scores between updates, by number of updates."""
        if not self.config.evaluation:
            return {}
        label = f"held_out/{self.config.evaluation.metric}"
        return {row["update"] + 1: row[label] for row in run.metrics if label in row}
