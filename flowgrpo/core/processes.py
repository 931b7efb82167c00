"""One process or many. Everything that crosses processes goes through here."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor
from torch.distributed import ProcessGroup, all_gather_object, all_reduce, broadcast_object_list, get_world_size, new_group

from flowgrpo.core.lockstep import Lockstep

T = TypeVar("T")
BUCKET = 1 << 25
"""Values that cross processes at a time."""


def once(make: Callable[[], T]) -> T:
    """What the main process makes, on all of them, however they were started."""
    return Processes.of(PartialState(cpu=not torch.cuda.is_available())).once(make)


class Processes:
    """The processes of a run, as `accelerate launch` or torchrun started them; a lone process otherwise. With a `lockstep` they
    hold parts of networks, and go along with one another until all want to exchange something.

    Neighbours form teams of `team` processes, which compute each sequence together: all of a team do the same work, and its first
    `speaks` for it. There are `count` teams, and this process is of number `rank`.
    """

    lockstep: Lockstep | None = None
    group: ProcessGroup | None = None
    """Through which they exchange things; None for the one that all begin with."""

    def __init__(self, rank: int, count: int, device: torch.device, team: int = 1) -> None:
        self.rank, self.count, self.team, self.device = rank // team, count // team, team, device
        self.several, self.speaks, self.is_main = count > 1, rank % team == 0, rank == 0

    @classmethod
    def of(cls, state: Accelerator | PartialState, team: int = 1) -> "Processes":
        return cls(state.process_index, state.num_processes, state.device, team)

    @classmethod
    def alone(cls) -> "Processes":
        """This process, on a GPU where there is one."""
        return cls(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def beside(self) -> "Processes":
        """The same ones, for a thread of each that exchanges other things meanwhile, in main memory. All ask for it together."""
        others = copy(self)
        others.device, others.lockstep = torch.device("cpu"), None
        others.group = cast(ProcessGroup, new_group(backend="gloo")) if self.several else None
        return others

    def once(self, make: Callable[[], T]) -> T:
        """What the main process makes, on all of them; an error of it is raised on all."""
        self.finish()
        if not self.several:
            return make()
        results: list[Any] = [None]
        if self.is_main:
            try:
                results = [make()]
            except Exception as error:
                results = [error]
        broadcast_object_list(results, group=self.group)
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def rounds(self, items: Sequence[T]) -> list[Sequence[T]]:
        """As many at a time as there are teams."""
        return [items[i : i + self.count] for i in range(0, len(items), self.count)]

    def share(self, items: Sequence[T]) -> list[T]:
        """This team's part of a list that all processes hold."""
        return list(items[self.rank :: self.count])

    def part(self, number: int) -> int:
        """This team's part of so many."""
        return len(range(self.rank, number, self.count))

    def gather(self, items: list[Any]) -> list[Any]:
        """The lists of all teams, joined, on every process."""
        return self.gather_all(items if self.speaks else [])

    def gather_made(self, make: Callable[[], list[Any]]) -> list[Any]:
        """The same of what each team makes, once for all of it."""
        return self.gather_all(make() if self.speaks else [])

    def gather_all(self, items: list[Any]) -> list[Any]:
        """The lists of all processes, joined, on every process."""
        self.finish()
        if not self.several:
            return items
        lists: list[Any] = [None] * get_world_size(self.group)
        all_gather_object(lists, items, group=self.group)
        return [item for held in lists for item in held]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss of this process's."""
        if self.lockstep:
            self.lockstep.backward(loss)
        else:
            loss.backward()

    def finish(self) -> None:
        """Go along with the other processes until all are here; what they add to gradients in parts is there then."""
        if self.lockstep:
            self.lockstep.finish()

    def sum(self, tensors: list[Tensor]) -> None:
        """Add up tensors over the processes, in place. Those of a team are parts of a sum too: each goes back through its own
        part of the sequences."""
        self.finish()
        if not self.several:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([t.flatten() for t in bucket])
            all_reduce(flat, group=self.group)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))


LONE = Processes(0, 1, torch.device("cpu"))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours that have at most BUCKET values together, or one that has more."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and held + tensor.numel() > BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket
