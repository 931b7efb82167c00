"""Pipeline calls whose steps are written down, and whether that holds.

A call is its arguments and the shape of its states. When it is seen for the second time it is written down, all steps in one go,
with the network at rest (`Loop.record`). That a kind of call can be written down at all is found out once: what its lines do is
compared bit for bit with what the pipeline does, at other states than those that they were written down with. A stand-in answers
for the network at every step, which shows all that it is given, and the gradient; the network itself evaluates at two.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from flowgrpo.core.keys import torch_generator
from flowgrpo.policies._dtypes import ROUNDINGS
from flowgrpo.policies.diffusers import REMEMBERED
from flowgrpo.policies.diffusers._guidance import Guidance, no_graph
from flowgrpo.policies.diffusers._idle import Idle
from flowgrpo.policies.diffusers._tap import own_randomness
from flowgrpo.policies.diffusers._trace import NotRecorded, Program

KEPT_BYTES = 2**30
"""Of constants; the latest call is kept whatever it has."""
GENERATOR = "generator"
"""The argument that is a new one in each call, of the same seed."""
PRIMED = "an earlier step leaves in the network what later ones read"
PLAIN = (bool, int, float, str, type(None))

Call = dict[str, Any]
"""Arguments of a pipeline's call."""


class Stepping(Protocol):
    """A loop of a pipeline (`_loop.Loop`)."""

    idle: Idle
    guidance: Guidance

    def called(self, state: Tensor, step: int, arguments: Call) -> Tensor: ...

    def replayed(self, state: Tensor, step: int, program: Program) -> Tensor: ...

    def record(self, state: Tensor, arguments: Call) -> list[Program]: ...


class Recordings:
    """Of the calls of one pipeline; `reasons` says of each kind of call why it is not written down, or nothing. None is where the
    network is `primed`: what a step of the loop leaves in it, later ones read."""

    def __init__(self, denoisers: Mapping[str, Any], primed: bool) -> None:
        self.denoisers, self.primed = list(denoisers.values()), primed
        self.untouched: Any = None
        self.reasons: dict[Hashable, str] = {}
        self.known: OrderedDict[Hashable, Sequence[Program]] = OrderedDict()

    def begin(self) -> None:
        """Before the pipeline's first call, which may change its network."""
        self.untouched = self.untouched or manner(self.denoisers)

    def find(self, loop: Stepping, state: Tensor, step: int, arguments: Call) -> Program | None:
        """What `step` of this call does, or None where the pipeline has to do it itself."""
        kind = _kind(arguments, state)
        if self.primed:
            self.reasons[kind] = PRIMED
        if self.reasons.get(kind) or torch.is_inference_mode_enabled():
            return None
        key = _key(arguments, state)
        if key not in self.known:
            self.known[key] = ()
            self._forget()
            return None
        programs = self.known[key]
        if programs and not programs[step].intact:
            self._refuse(kind, "the network writes into what it is given")
            return None
        if not programs:
            try:
                programs = self._record(loop, state, step, arguments, kind)
            except NotRecorded as reason:
                self._refuse(kind, str(reason))
                return None
            self.known[key] = programs
            self._forget()
        self.known.move_to_end(key)
        return programs[step]

    def steps(self, loop: Stepping, state: Tensor, arguments: Call) -> Sequence[Program]:
        """What all steps of this call do. Errors: NotRecorded where the pipeline has to do one itself."""
        if not (self.find(loop, state, 0, arguments) or self.find(loop, state, 0, arguments)):
            raise NotRecorded(self.reasons.get(_kind(arguments, state)) or "no step is recorded in inference mode")
        programs = self.known[_key(arguments, state)]
        if not all(program.intact for program in programs):
            raise NotRecorded("the network writes into what it is given")
        return programs

    def _record(self, loop: Stepping, state: Tensor, step: int, arguments: Call, kind: Hashable) -> Sequence[Program]:
        programs = loop.record(state, arguments)
        if kind not in self.reasons:
            with own_randomness(), loop.idle.rehearsal():
                self._compare(loop, state, step, arguments, programs)
            self.reasons[kind] = ""
        return programs

    def _refuse(self, kind: Hashable, reason: str) -> None:
        self.reasons[kind] = reason
        self.known.clear()

    def _forget(self) -> None:
        """The oldest, until there is room for what is left."""
        while len(self.known) > 1 and (len(self.known) > REMEMBERED or sum(map(held_by, self.known.values())) > KEPT_BYTES):
            self.known.popitem(last=False)

    def _compare(self, loop: Stepping, state: Tensor, step: int, arguments: Call, programs: Sequence[Program]) -> None:
        """Errors: NotRecorded where lines and pipeline differ in a bit."""
        if any("is_cache_enabled" in dir(module) and module.is_cache_enabled for module in self.denoisers):
            raise NotRecorded("the network has a cache")
        other = torch.randn(state.shape, generator=torch_generator(("recorded",))).to(state)
        for at, program in enumerate(programs):
            called, replayed = StandIn(loop.idle, self.denoisers), StandIn(loop.idle)
            with torch.enable_grad(), loop.guidance.stood_in(called):
                expected = loop.called(other, at, anew(arguments))
            with torch.enable_grad(), loop.guidance.stood_in(replayed):
                found = loop.replayed(other, at, program)
            if called.manner != self.untouched:
                raise NotRecorded("the pipeline changes its network for the time of a call")
            if not _equal(called.given, replayed.given):
                raise NotRecorded("the network is given something that depends on more than is seen")
            if not _equal(expected, found):
                raise NotRecorded("the prediction depends on more than is seen")
            if not _close(called.gradients(expected), replayed.gradients(found)):
                raise NotRecorded("the gradient depends on more than is seen")
        last = len(programs) - 1
        for at, x in ((step, state), (last if step != last else 0, other)):
            with no_graph():
                expected, before = loop.called(x, at, anew(arguments)), torch.get_rng_state()
                if not torch.equal(loop.replayed(x, at, programs[at]), expected) or not programs[at].intact:
                    raise NotRecorded("the network says something else outside of the pipeline's call")
                if not torch.equal(torch.get_rng_state(), before):
                    raise NotRecorded("the network draws random numbers")


class StandIn:
    """Notes what a network is given, and the `manner` of the denoisers at the time, and answers with made-up numbers."""

    def __init__(self, idle: Idle, denoisers: Sequence[nn.Module] = ()) -> None:
        self.idle, self.denoisers = idle, denoisers
        self.given: list[Any] = []
        self.manner: list[Any] = []
        self.answers: list[Tensor] = []

    def __call__(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.given.append(tree_map(_copy, (args, kwargs)))
        self.manner = self.manner or manner(self.denoisers)
        with self.idle():
            answer = forward(*args, **kwargs)
        return tree_map(self._made_up, answer)

    def gradients(self, prediction: Tensor) -> Sequence[Tensor | None]:
        """Of a linear function of the prediction, in what was answered."""
        if not prediction.requires_grad:
            return []
        direction = torch.randn(prediction.shape, generator=torch_generator(("recorded", "direction"))).to(prediction)
        return torch.autograd.grad(prediction, self.answers, direction, allow_unused=True)

    def _made_up(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        noise = torch.randn(leaf.shape, generator=torch_generator(("recorded", len(self.answers)))).to(leaf)
        self.answers.append(noise.requires_grad_())
        return noise.clone()


def manner(modules: Sequence[nn.Module]) -> list[Any]:
    """How networks go about it, but for their weights and whether adapters are on."""
    return [
        (name, type(part), _settings(part), type(vars(part).get("processor")), _settings(vars(part).get("processor")))
        for module in modules
        for name, part in module.named_modules()
    ]


def _settings(part: Any) -> dict[str, Any]:
    if part is None or isinstance(part, BaseTunerLayer):
        return {}
    return {name: value for name, value in vars(part).items() if isinstance(value, bool | int | float | str)}


def held_by(programs: Sequence[Program]) -> int:
    """Bytes of the constants of a call."""
    constants = {id(constant): constant.nbytes for program in programs for constant, _ in program.constants}
    return sum(constants.values())


class _Same:
    """An object that equals itself only."""

    def __init__(self, it: Any) -> None:
        self.it, self.version = it, it._version if isinstance(it, Tensor) else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.it is self.it and other.version == self.version

    def __hash__(self) -> int:
        return id(self.it)


def _mark(value: Any) -> Hashable:
    """What makes two arguments the same."""
    if isinstance(value, list | tuple):
        return tuple(map(_mark, value))
    if isinstance(value, dict):
        return tuple((name, _mark(item)) for name, item in value.items())
    return (type(value), value) if isinstance(value, PLAIN) else _Same(value)


def _key(arguments: Call, state: Tensor) -> Hashable:
    """What makes two calls the same."""
    return tuple(state.shape), state.dtype, *((name, _mark(value)) for name, value in arguments.items() if name != GENERATOR)


def _kind(arguments: Call, state: Tensor) -> Hashable:
    """Calls that take the same way through a pipeline's code: arguments of the same names and types, one sample or several."""
    types = tuple((name, type(value)) for name, value in arguments.items())
    return types, tuple(state.shape[1:]), state.dtype, len(state) > 1


def anew(arguments: Call) -> Call:
    """For another call: its generator has drawn nothing yet."""
    return {**arguments, GENERATOR: torch.Generator()}


def _equal(one: Any, other: Any) -> bool:
    """To the bit."""
    (leaves, tree), (others, other_tree) = tree_flatten(one), tree_flatten(other)
    return tree == other_tree and all(
        type(a) is type(b) and (a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, Tensor) else a == b)
        for a, b in zip(leaves, others, strict=True)
    )


def _close(gradients: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> bool:
    """But for the order in which autograd adds."""
    return len(gradients) == len(others) and all(map(_close_to, gradients, others))


def _close_to(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool((one.double() - other).norm() <= ROUNDINGS * torch.finfo(one.dtype).eps * one.double().norm())


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
