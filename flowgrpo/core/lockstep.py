"""Networks whose weights lie on several processes: a process computes with them only while all do.

Processes have unequal work. So each says what it is about to do, and all do the same: those that have something else to do, or
nothing, go along with what they were given last, and nothing comes of it. Calls without a graph go first, then calls with one,
then the way back through them: before a process goes back all have made the same calls.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.distributed import all_gather, broadcast_object_list
from torch.utils._pytree import tree_leaves, tree_map

DONE, BACKWARD = 0, 1
CALLS = 2
"""From here on: calls of each network with a graph, then without one."""


@dataclass(frozen=True)
class Given:
    """What a network was called with, and `precision`: the type that operations are cast to, None for their own."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    precision: torch.dtype | None

    @classmethod
    def now(cls, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Given":
        cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        args, kwargs = tree_map(_detached, (args, kwargs))
        return cls(args, kwargs, cast)

    def on(self, device: torch.device) -> "Given":
        args, kwargs = send_to_device((self.args, self.kwargs), device)
        return Given(args, kwargs, self.precision)

    def cast(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, self.precision, enabled=self.precision is not None)


class Lockstep:
    """For the `count` processes of a run, each on its `device`."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.count, self.device = count, device
        self.forwards: list[Callable[..., Any]] = []
        self.given: list[Given | None] = []
        self.aside: list[Tensor] = []
        """What calls for others have answered since the last way back."""

    def add(self, *networks: nn.Module) -> None:
        """From now on their calls are made by all. All networks are added before the first call."""
        for number, network in enumerate(networks, len(self.forwards)):
            self.forwards.append(network.forward)
            self.given.append(None)
            network.forward = self._in_step(number, network.forward)

    def _in_step(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            self.given[number] = Given.now(self.device, args, kwargs)
            self._wait(self._call(number, torch.is_grad_enabled()))
            return forward(*args, **kwargs)

        return called

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's loss, when all go back."""
        self._wait(BACKWARD)
        self._go_back(loss)

    def finish(self) -> None:
        """Go along until no process has anything to do."""
        self._wait(DONE)

    def _call(self, number: int, graph: bool) -> int:
        return CALLS + number + (0 if graph else len(self.forwards))

    def _wait(self, own: int) -> None:
        """Do what others are about to do until it is this one's turn."""
        while True:
            asked, missing = self._ask(own)
            now = max(asked)
            if now >= CALLS:
                self._hand_out(asked.index(now), (now - CALLS) % len(self.forwards), missing)
            if now == own:
                return
            self._go_along(now)

    def _ask(self, own: int) -> tuple[list[int], list[list[bool]]]:
        """What each process is about to do, and which networks it has not been given anything for."""
        row = torch.tensor([own, *(given is None for given in self.given)], device=self.device)
        rows = [torch.empty_like(row) for _ in range(self.count)]
        all_gather(rows, row)
        asked = torch.stack(rows).tolist()
        return [row[0] for row in asked], [[bool(lacks) for lacks in row[1:]] for row in asked]

    def _hand_out(self, source: int, number: int, missing: list[list[bool]]) -> None:
        """A process that a network has not been given anything in takes what the one that calls it was given."""
        if not any(row[number] for row in missing):
            return
        own = self.given[number]
        handed: list[Any] = [own.on(torch.device("cpu")) if own else None]
        broadcast_object_list(handed, src=source)
        self.given[number] = own or handed[0].on(self.device)

    def _go_along(self, now: int) -> None:
        if now == BACKWARD:
            self._go_back(None)
            return
        number, graph = (now - CALLS) % len(self.forwards), now < CALLS + len(self.forwards)
        given = self.given[number]
        assert given is not None
        with torch.set_grad_enabled(graph), given.cast(self.device):
            answer = self.forwards[number](*given.args, **given.kwargs)
        if graph:
            self.aside += [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.requires_grad]

    def _go_back(self, loss: Tensor | None) -> None:
        """Through all calls since the last time; those for others add zeros."""
        zeros = [0.0 * answer.sum() for answer in self.aside]
        self.aside = []
        if whole := zeros if loss is None else [loss, *zeros]:
            torch.autograd.backward(whole)


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
