"""Networks whose weights lie on several processes: a process computes with them only while all do.

Processes have unequal work. So each says what it is about to do, and all do the same: those that have something else to do, or
nothing, go along with what they were given last, and nothing comes of it. Calls without a graph go first, then calls with one,
then the way back through them: before a process goes back all have made the same calls. A call also says which weights it is made
with, trained ones or others (an average, those before training), and all hold these meanwhile.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.distributed import all_gather, broadcast_object_list
from torch.utils._pytree import tree_leaves, tree_map

DONE, BACKWARD, GRAPH, NO_GRAPH = range(4)
Act = tuple[int, int, int]
"""What a process does, the largest first: one of the above, a network's number, and that of the weights, 0 for trained ones."""


class Other(Protocol):
    """Other weights than the trained ones."""

    def enter(self) -> None:
        """From now on this process's parts of the networks hold them."""
        ...

    def leave(self) -> None:
        """They hold the trained ones again."""
        ...


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
        self.others: list[Other] = []
        self.wanted = self.held = 0
        """Which weights this process is about to compute with, and which it has."""

    def add(self, *networks: nn.Module) -> None:
        """From now on their calls are made by all. All networks are added before the first call."""
        for number, network in enumerate(networks, len(self.forwards)):
            self.forwards.append(network.forward)
            self.given.append(None)
            network.forward = self._in_step(number, network.forward)

    def add_weights(self, other: Other) -> int:
        """Their number. All processes add the same ones in one order."""
        self.others.append(other)
        return len(self.others)

    @contextmanager
    def using(self, weights: int) -> Iterator[None]:
        """Inside, this process computes with weights of this number."""
        before, self.wanted = self.wanted, weights
        try:
            yield
        finally:
            self.wanted = before

    def _in_step(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            self.given[number] = Given.now(self.device, args, kwargs)
            self._wait((GRAPH if torch.is_grad_enabled() else NO_GRAPH, number, self.wanted))
            return forward(*args, **kwargs)

        return called

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this process's loss, when all go back."""
        self._wait((BACKWARD, 0, 0))
        self._go_back(loss)

    def finish(self) -> None:
        """Go along until no process has anything to do; then hold the weights that are wanted here, which all want."""
        self._wait((DONE, 0, self.wanted))

    def _wait(self, own: Act) -> None:
        """Do what others are about to do until it is this one's turn."""
        while True:
            asked, missing = self._ask(own)
            now = max(asked)
            if now[0] in (GRAPH, NO_GRAPH):
                self._hand_out(asked.index(now), now[1], missing)
            self._hold(now[2])
            if now == own:
                return
            self._go_along(now)

    def _ask(self, own: Act) -> tuple[list[Act], list[list[int]]]:
        """What each process is about to do, and for which networks it has not been given anything."""
        row = torch.tensor([*own, *(given is None for given in self.given)], device=self.device)
        rows = [torch.empty_like(row) for _ in range(self.count)]
        all_gather(rows, row)
        asked = torch.stack(rows).tolist()
        return [(row[0], row[1], row[2]) for row in asked], [row[3:] for row in asked]

    def _hand_out(self, source: int, number: int, missing: list[list[int]]) -> None:
        """A process that a network has not been given anything in takes what the one that calls it was given."""
        if not any(row[number] for row in missing):
            return
        own = self.given[number]
        handed: list[Any] = [own.on(torch.device("cpu")) if own else None]
        broadcast_object_list(handed, src=source)
        self.given[number] = own or handed[0].on(self.device)

    def _hold(self, weights: int) -> None:
        if weights == self.held:
            return
        if self.held:
            self.others[self.held - 1].leave()
        if weights:
            self.others[weights - 1].enter()
        self.held = weights

    def _go_along(self, now: Act) -> None:
        what, number, _ = now
        if what == BACKWARD:
            self._go_back(None)
            return
        given = self.given[number]
        assert given is not None and what != DONE, "processes that are done want the same weights"
        with torch.set_grad_enabled(what == GRAPH), given.cast(self.device):
            answer = self.forwards[number](*given.args, **given.kwargs)
        if what == GRAPH:
            self.aside += [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.requires_grad]

    def _go_back(self, loss: Tensor | None) -> None:
        """Through all calls since the last time; those for others add zeros."""
        with torch.enable_grad():
            zeros = [0.0 * answer.sum() for answer in self.aside]
        self.aside = []
        if whole := zeros if loss is None else [loss, *zeros]:
            torch.autograd.backward(whole)


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
