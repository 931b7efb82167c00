"""Where the time of an update goes: seconds, memory and operations by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from flowgrpo.training.trainer import Clock

PHASES = ("encode", "rollout", "decode", "reward", "update")


@dataclass
class Spent:
    """`cpu` are seconds of this process on all cores; `peak` is in bytes, 0 on a CPU."""

    wall: float = 0.0
    cpu: float = 0.0
    operations: int = 0
    peak: int = 0


class Phases(Clock):
    """A trainer's clock that counts for each phase what is spent in no phase inside it. A GPU is waited for where a phase begins
    and ends; operations are counted where there is a `counter`."""

    def __init__(self, device: torch.device, counter: FlopCounterMode | None = None) -> None:
        super().__init__()
        self.on_gpu, self.counter = device.type == "cuda", counter
        self.spent = {phase: Spent() for phase in PHASES}
        self.inside: list[str] = []
        self.last = Spent()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._book()
        self.inside.append(phase)
        yield
        self._book()
        self.inside.pop()

    def _book(self) -> None:
        """What was spent since the last time, to the innermost phase."""
        now = self._now()
        if self.inside:
            spent = self.spent[self.inside[-1]]
            spent.wall += now.wall - self.last.wall
            spent.cpu += now.cpu - self.last.cpu
            spent.operations += now.operations - self.last.operations
            spent.peak = max(spent.peak, now.peak)
        self.last = now

    def _now(self) -> Spent:
        peak = 0
        if self.on_gpu:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        operations = self.counter.get_total_flops() if self.counter else 0
        return Spent(time.perf_counter(), time.process_time(), operations, peak)
