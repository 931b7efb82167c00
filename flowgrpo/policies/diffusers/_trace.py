"""Write down what a pipeline does between its state, its network and its scheduler, to do the same with another state.

What the state runs through is a list of lines, in order. Each calls a tensor function or a component of the pipeline; its tensors
are what earlier lines made, or constants: what does not depend on the state, such as embeddings and times.

    3 = torch.cat([0, 0])                                        0 is the state
    4 = transformer(hidden_states=3, timestep=<constant>, ...)
    5, 6 = Tensor.chunk(4, 2)
    7 = Tensor.sub(6, 5)                                         ...

What can't be seen as a tensor function is refused: a number that is read from the state, or a weight that is used outside of its
component.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")
SMALL = 4096
"""Bytes of a constant that is copied; a pipeline may write into it at the next step."""
METADATA = {
    *("__get__", "__len__", "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size"),
    *("is_floating_point", "is_complex", "is_contiguous", "get_device", "type"),
}
"""Functions that, where they return no tensor, tell nothing of a tensor's numbers."""
SHAPED = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full"),
}
"""Functions whose result depends on a tensor's shape, type and device only."""
PLAIN = (
    *(int, float, complex, str, type(None), slice, type(...), type, np.generic),
    *(torch.dtype, torch.device, torch.memory_format, torch.layout),
)


class NotRecorded(Exception):
    """Why a pipeline's steps can't be written down."""


@dataclass(frozen=True)
class Slot:
    """Stands for a tensor that an earlier line made; 0 is the state."""

    number: int


@dataclass(frozen=True)
class Line:
    """`function(*args, **kwargs)`, whose tensors are `made`; it may write into storages. `step`: of a denoiser's call."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: Sequence[tuple[int, int]]
    """(place among the tensors of the result, slot)."""
    reads: frozenset[int]
    """Slots."""
    touches: frozenset[int]
    """Storages of what it reads."""
    writes: frozenset[int]
    """Storages."""
    step: int | None = None


@dataclass(frozen=True)
class Program:
    """What one step does with the state [B, ...]: the prediction [B, ...], bit for bit what the pipeline makes of it."""

    lines: Sequence[tuple[Line, frozenset[int]]]
    """With the slots that nobody reads any more after each."""
    output: int
    constants: Sequence[tuple[Tensor, int]]
    """With the version that each is right in."""

    @property
    def intact(self) -> bool:
        """Whether nobody has written into a constant."""
        return all(constant._version == version for constant, version in self.constants)

    def __call__(self, state: Tensor) -> Tensor:
        values = {0: state}
        for line, over in self.lines:
            result = line.function(*filled(line.args, values), **filled(line.kwargs, values))
            tensors = [result] if isinstance(result, Tensor) else list(tensors_in(result))
            for place, slot in line.made:
                values[slot] = tensors[place]
            for slot in over:
                del values[slot]
        return values[self.output]


class Trace(TorchFunctionMode):
    """Inside, and outside of the `components` of a pipeline, every tensor function is seen, and those that the state runs
    through are written down.

    Errors: NotRecorded, from within what is seen.
    """

    def __init__(self, state: Tensor, components: Sequence[nn.Module], denoisers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.components, self.denoisers = components, denoisers
        self.lines: list[Line] = []
        self.step = 0
        self.depth = 0
        """Of components that are at work."""
        self.call: _Call | None = None
        self.slots = WeakTensorKeyDictionary({state: 0})
        self.made = 1
        self.state = _storage(state)
        self.storages = {self.state: StorageWeakRef(state.untyped_storage())}
        """Those that depend on the state; a weak reference keeps an address from being used again."""
        self.adopted: dict[int, Tensor] = {}
        """What was constant until the state was written into it, by storage."""
        self.constants: list[tuple[Tensor, int]] = []

    def __enter__(self) -> Self:
        self.hooks, self.surroundings = ExitStack(), _surroundings()
        for module in self.components:
            before = module.register_forward_pre_hook(self._called, prepend=True, with_kwargs=True)
            after = module.register_forward_hook(self._answered, with_kwargs=True, always_call=True)
            self.hooks.callback(before.remove)
            self.hooks.callback(after.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hooks.close()

    def program(self, prediction: Tensor) -> Program:
        """What the present step has made of the state, all that it needs of earlier lines included."""
        with self._closed():
            return self._program(prediction)

    def apart(self, tensor: Tensor) -> Tensor:
        """Its numbers, as if they did not depend on the state."""
        with self._closed():
            return tensor.clone()

    @contextmanager
    def _closed(self) -> Iterator[None]:
        super().__exit__(None, None, None)
        try:
            yield
        finally:
            super().__enter__()

    def _program(self, prediction: Tensor) -> Program:
        if _storage(prediction) not in self.storages:
            raise NotRecorded("the prediction does not depend on the state")
        output = self._slot(prediction)
        slots, storages = {output}, {_storage(prediction)}
        needed: list[Line] = []
        for line in reversed(self.lines):
            if line.step == self.step or any(slot in slots for _, slot in line.made) or line.writes & storages:
                if line.step not in (None, self.step):
                    raise NotRecorded("a step reads what the network said at an earlier one")
                needed.append(line)
                slots |= line.reads
                storages |= line.touches
        used = {id(leaf) for line in needed for leaf in tensors_in((line.args, line.kwargs))}
        later, lines = {output}, []
        for line in needed:
            mine = line.reads.union(slot for _, slot in line.made)
            lines.append((line, mine - later))
            later |= mine
        return Program(lines[::-1], output, [pair for pair in self.constants if id(pair[0]) in used])

    def require_unchanged(self) -> None:
        """Errors: NotRecorded where the pipeline has written into a constant after it was used."""
        if any(constant._version != version for constant, version in self.constants):
            raise NotRecorded("the pipeline changes its conditions in place")

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        name = function.__name__
        if not any(_storage(tensor) in self.storages for tensor in tensors):
            result = function(*args, **kwargs)
            if any(tensor.requires_grad for tensor in tensors) and any(True for _ in tensors_in(result)):
                raise NotRecorded("the pipeline uses trained weights outside of its network")
            return result
        if name in SHAPED:
            return function(*args, **kwargs)
        if name == "__set__" or kwargs.get("out") is not None:
            raise NotRecorded(f"the pipeline sets a tensor by an unusual way ({name})")
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        return self._written_down(function, args, kwargs, tensors, args[0] if writes else None)

    def _written_down(self, function: Any, args: Any, kwargs: Any, tensors: list[Tensor], target: Tensor | None) -> Any:
        if any(isinstance(tensor, nn.Parameter) for tensor in tensors):
            raise NotRecorded("the pipeline uses weights outside of their component")
        if target is not None and _storage(target) not in self.storages:
            self._adopt(target)
        call = _Call(self._taken(args), self._taken(kwargs), tensors)
        result = function(*args, **kwargs)
        made = list(tensors_in(result))
        if not made and target is None:
            if function.__name__ in METADATA:
                return result
            raise NotRecorded(f"the pipeline reads numbers from its latents ({function.__name__})")
        self._note(function, call, made, None)
        return result

    def _note(self, function: Any, call: "_Call", made: list[Tensor], step: int | None) -> None:
        """A line, once it has run; none for what gives back what it got."""
        changed = {_storage(t) for t, version in zip(call.tensors, call.versions, strict=True) if t._version != version}
        if changed - self.storages.keys():
            raise NotRecorded("the pipeline writes into what its network is given")
        if self.state in changed:
            raise NotRecorded("the pipeline writes into its latents")
        if step is None and not changed and all(tensor in self.slots for tensor in made):
            return
        inputs = set(map(_storage, call.tensors))
        places = [
            (place, self._new_slot(tensor))
            for place, tensor in enumerate(made)
            if (storage := _storage(tensor)) in self.storages or storage not in inputs
        ]
        touches = frozenset(inputs & self.storages.keys())
        reads = frozenset(slot.number for slot in _found(Slot, (call.args, call.kwargs)))
        self.lines.append(Line(function, call.args, call.kwargs, places, reads, touches, frozenset(changed), step))

    def _new_slot(self, tensor: Tensor) -> int:
        """Of what a line has made, which is an older tensor where it was written in place."""
        self.storages.setdefault(_storage(tensor), StorageWeakRef(tensor.untyped_storage()))
        if tensor not in self.slots:
            self.slots[tensor] = self.made
            self.made += 1
        slot: int = self.slots[tensor]
        return slot

    def _taken(self, given: Any) -> Any:
        """Arguments with slots and constants for tensors."""
        if isinstance(given, Tensor):
            return self._constant(given) if _storage(given) not in self.storages else Slot(self._slot(given))
        if isinstance(given, PLAIN):
            return given
        if type(given) in (tuple, list, torch.Size):
            return type(given)(map(self._taken, given))
        if type(given) is dict:
            return {name: self._taken(value) for name, value in given.items()}
        raise NotRecorded(f"the pipeline gives its network an object ({type(given).__name__})")

    def _slot(self, tensor: Tensor) -> int:
        """Of a tensor whose storage depends on the state."""
        if tensor not in self.slots:
            base = self.adopted.get(_storage(tensor))
            if base is None or base.dtype != tensor.dtype:
                raise NotRecorded("the pipeline sees its latents in a way that is not a tensor function")
            view = (Slot(self.slots[base]), tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
            self._note(torch.as_strided, _Call(view, {}, [base]), [tensor], None)
        slot: int = self.slots[tensor]
        return slot

    def _adopt(self, tensor: Tensor) -> None:
        """A constant that the state is about to be written into is copied first, each time."""
        base = tensor if tensor._base is None else tensor._base
        if base.storage_offset() or not base.is_contiguous() or base.requires_grad:
            raise NotRecorded("the pipeline writes its latents into a part of something")
        before = self._held(base)
        if before is base:
            before = self._hold(base.clone())
        self.adopted[_storage(base)] = base
        self._note(torch.clone, _Call((before,), {}, []), [base], None)

    def _constant(self, tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            raise NotRecorded("the pipeline uses trained weights outside of its network")
        tensor = tensor.clone() if tensor.nbytes <= SMALL else self._held(tensor)
        return self._hold(tensor)

    def _held(self, tensor: Tensor) -> Tensor:
        """A constant with the same numbers, which takes no more memory, or this one."""
        return next((known for known, _ in self.constants if same(known, tensor)), tensor)

    def _hold(self, tensor: Tensor) -> Tensor:
        if not any(known is tensor for known, _ in self.constants):
            self.constants.append((tensor, tensor._version))
        return tensor

    def _called(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A component does its work unseen."""
        self.depth += 1
        if self.depth > 1:
            return
        super().__exit__(None, None, None)
        self.call = None
        tensors = list(tensors_in((args, kwargs)))
        if module in self.denoisers or any(_storage(tensor) in self.storages for tensor in tensors):
            if _surroundings() != self.surroundings:
                raise NotRecorded("the pipeline changes autocast or the graph around its network")
            self.call = _Call(self._taken(args), self._taken(kwargs), tensors)

    def _answered(self, module: nn.Module, args: Any, kwargs: Any, answer: Any) -> None:
        self.depth -= 1
        if self.depth:
            return
        if self.call is not None and answer is not None:
            self._note(module, self.call, list(tensors_in(answer)), self.step if module in self.denoisers else None)
        super().__enter__()


class _Call:
    """Arguments, before they are used."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> None:
        self.args, self.kwargs, self.tensors = args, kwargs, tensors
        self.versions = [tensor._version for tensor in tensors]


def tensors_in(given: Any) -> Iterator[Tensor]:
    """In order; those in objects of a kind unknown here are not found."""
    return _found(Tensor, given)


def _found(kind: type[T], given: Any) -> Iterator[T]:
    if isinstance(given, kind):
        yield given
    elif isinstance(given, tuple | list):
        for item in given:
            yield from _found(kind, item)
    elif isinstance(given, Mapping):
        for item in given.values():
            yield from _found(kind, item)


def filled(given: Any, values: Mapping[int, Tensor]) -> Any:
    kind = type(given)
    if kind is Slot:
        return values[given.number]
    if kind is tuple or kind is list:
        return kind([filled(item, values) for item in given])
    if kind is dict:
        return {name: filled(value, values) for name, value in given.items()}
    return given


def same(one: Tensor, other: Tensor) -> bool:
    return one is other or (
        one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _surroundings() -> tuple[Any, ...]:
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    casts = tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
    return *casts, torch.is_grad_enabled()
