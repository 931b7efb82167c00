"""Run a pipeline's own `__call__` with its denoising loop under control.

The pipeline builds its schedule, encodes its prompts, applies its guidance and decodes; the tap sees what it prepares, restricts
its loop to the steps that are wanted, and stands where its scheduler steps. No line here knows a model.
"""

import builtins
import copy
import functools
import inspect
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MethodType
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from flowgrpo.core.errors import UserError
from flowgrpo.policies.diffusers._once import Draws, Schedules

PREPARES = re.compile(r"prepare_((audio|text|video)_)?latents|prepare_intermediate_images")
"""Methods whose first tensor may be what the loop denoises."""


class Stop(Exception):
    """Ends a pipeline's call once the tap has what it wanted."""


class Site(NamedTuple):
    """Where a pipeline prepares latents: a method, and how many-th call of it."""

    method: str
    call: int


@dataclass(frozen=True)
class StepCall:
    """What a pipeline gives its scheduler."""

    model_output: Tensor
    sample: Tensor


class Stepped(NamedTuple):
    """What it gets back."""

    prev_sample: Tensor
    pred_original_sample: Tensor


@dataclass(frozen=True)
class Span:
    """The part of the scheduler's timesteps that the loop runs over."""

    offset: int
    length: int


def unchanged(site: Site, prepared: Tensor) -> Tensor:
    return prepared


OnPrepared = Callable[[Site, Tensor], Tensor]
OnStep = Callable[[StepCall], Tensor]
Window = Callable[[int], Iterator[int]]
"""The iterations to run, given how many there are."""


class Tap:
    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self.call = inspect.unwrap(type(pipe).__call__)
        """The call without `torch.no_grad`."""
        self.prepares = [name for name in dir(type(pipe)) if PREPARES.fullmatch(name)]
        self.spans: list[Span] = []
        """Of the loops that the last call has entered."""
        self.timesteps_are_set = False
        self.draws, self.schedules = Draws(), Schedules()

    @cached_property
    def device(self) -> torch.device:
        """Where the pipeline computes, which it finds out by a walk over all of its modules."""
        return self.pipe._execution_device

    def run(self, arguments: dict[str, Any], window: Window, on_prepared: OnPrepared, on_step: OnStep) -> Any:
        """The call's output, or None where a function raised `Stop`. What it draws without a generator is the same each time.
        It gets lists of its own: some pipelines write into them.

        Errors: UserError where the call has no loop over its scheduler's timesteps.
        """
        self.spans = []
        arguments = {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}
        with ExitStack() as stack:
            for context in (
                own_randomness(),
                self._device_known(),
                self._fresh_guiders(),
                self._drawn_once(),
                self._prepared(on_prepared),
                self._loop(window),
                self._step(on_step),
            ):
                stack.enter_context(context)
            try:
                output = self.call(self.pipe, **arguments)
            except Stop:
                output = None
        if not self.spans:
            raise UserError(f"{type(self.pipe).__name__} has no loop over its scheduler's timesteps to take over")
        return output

    @contextmanager
    def _device_known(self) -> Iterator[None]:
        """Spare the pipeline its walk. A property can be shadowed in its class only, where other pipelines keep theirs."""
        kind, device = type(self.pipe), self.device
        walk = kind._execution_device.fget
        assert walk
        known = property(lambda pipe: device if pipe is self.pipe else walk(pipe))
        own = vars(kind).get("_execution_device")
        kind._execution_device = known
        try:
            yield
        finally:
            if own is None:
                del kind._execution_device
            else:
                kind._execution_device = own

    @contextmanager
    def _fresh_guiders(self) -> Iterator[None]:
        """Guiders of the call's own: one with momentum would carry predictions, and their graphs, into the next call."""
        scope = vars(self.pipe)
        names = [name for name, value in scope.items() if name.endswith("guider") and value is not None]
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(_entry(scope, name, copy.deepcopy(scope[name])))
            yield

    @contextmanager
    def _drawn_once(self) -> Iterator[None]:
        scope = self.call.__globals__
        with ExitStack() as stack:
            if draw := scope.get("randn_tensor"):
                stack.enter_context(_entry(scope, "randn_tensor", self.draws.shadow(draw)))
            yield

    @contextmanager
    def _prepared(self, replace: OnPrepared) -> Iterator[None]:
        scope = self.call.__globals__
        with ExitStack() as stack:
            for name in self.prepares:
                stack.enter_context(_entry(vars(self.pipe), name, _replacing(name, getattr(self.pipe, name), replace)))
            if not self.prepares and "randn_tensor" in scope:
                draw = _replacing("randn_tensor", scope["randn_tensor"], replace)
                stack.enter_context(_entry(scope, "randn_tensor", draw))
            yield

    @contextmanager
    def _loop(self, window: Window) -> Iterator[None]:
        """Let the pipeline's `enumerate(timesteps)` or `progress_bar(timesteps)` yield only the steps of the window."""

        def enumerate_(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
            timesteps = iterable.timesteps if isinstance(iterable, _Bar) else _inside(iterable)
            span = self._span(timesteps)
            if span is None:
                return builtins.enumerate(iterable, start)
            return ((i, timesteps[i]) for i in self._enter(span, window))

        def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
            span = self._span(iterable)
            if span is None:
                return original(iterable, total)
            return _Bar(iterable, lambda: (iterable[i] for i in self._enter(span, window)))

        scheduler, original = self.pipe.scheduler, self.pipe.progress_bar
        set_timesteps = self.schedules.shadow(scheduler, scheduler.set_timesteps)
        self.timesteps_are_set = False

        @functools.wraps(set_timesteps)
        def set_timesteps_(*args: Any, **kwargs: Any) -> Any:
            self.timesteps_are_set = True
            return set_timesteps(*args, **kwargs)

        with (
            _entry(self.call.__globals__, "enumerate", enumerate_),
            _entry(vars(self.pipe), "progress_bar", progress_bar),
            _entry(vars(scheduler), "set_timesteps", set_timesteps_),
        ):
            yield

    def _enter(self, span: Span, window: Window) -> Iterator[int]:
        self.spans.append(span)
        scheduler = self.pipe.scheduler
        for i in window(span.length):
            if "_step_index" in vars(scheduler):
                scheduler._step_index = span.offset + i
            yield i

    def _span(self, iterable: Any) -> Span | None:
        """Where these timesteps lie in the scheduler's, or None."""
        if not self.timesteps_are_set or not isinstance(iterable, Tensor) or iterable.ndim != 1 or not len(iterable):
            return None
        timesteps = torch.as_tensor(self.pipe.scheduler.timesteps)
        if timesteps.dtype != iterable.dtype:
            return None
        if (offset := _offset(iterable, timesteps)) is not None:
            return Span(offset, len(iterable))
        timesteps, wanted = timesteps.cpu(), iterable.cpu()
        for offset in range(len(timesteps) - len(wanted) + 1):
            if torch.equal(timesteps[offset : offset + len(wanted)], wanted):
                return Span(offset, len(wanted))
        return None

    @contextmanager
    def _step(self, on_step: OnStep) -> Iterator[None]:
        """Also of copies that the pipeline makes of its scheduler, for a second stream."""
        scheduler = self.pipe.scheduler
        signature = _signature(type(scheduler).step)

        @functools.wraps(type(scheduler).step)
        def step(stepped: Any, *args: Any, **kwargs: Any) -> Stepped:
            given = signature.bind(stepped, *args, **kwargs).arguments
            latents = on_step(StepCall(given["model_output"], given["sample"]))
            if vars(stepped).get("_step_index") is not None:
                stepped._step_index += 1
            return Stepped(latents, latents)

        with _entry(vars(scheduler), "step", MethodType(step, scheduler)):
            yield


class _Bar:
    """Stands for the progress bar over the timesteps."""

    def __init__(self, timesteps: Tensor, steps: Callable[[], Iterator[Tensor]]) -> None:
        self.timesteps, self.steps = timesteps, steps

    def __iter__(self) -> Iterator[Tensor]:
        return self.steps()


def _offset(part: Tensor, whole: Tensor) -> int | None:
    """Where a slice of consecutive numbers begins in what it is a slice of, without a look at the numbers, for which the host
    would wait for the device; None where it is none."""
    if part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr() or part.stride() != whole.stride():
        return None
    offset, rest = divmod(int(part.storage_offset() - whole.storage_offset()), max(1, whole.stride()[0]))
    return offset if rest == 0 and 0 <= offset <= len(whole) - len(part) else None


@contextmanager
def watched(scheduler: Any, last: int) -> Iterator[deque[StepCall]]:
    """The `last` steps of a scheduler at work: what the network gave it, and what it made of the sample."""
    signature, calls = _signature(type(scheduler).step), deque[StepCall](maxlen=last)

    @functools.wraps(type(scheduler).step)
    def step(stepped: Any, *args: Any, **kwargs: Any) -> Any:
        output = type(stepped).step(stepped, *args, **kwargs)
        calls.append(StepCall(signature.bind(stepped, *args, **kwargs).arguments["model_output"], output[0]))
        return output

    with _entry(vars(scheduler), "step", MethodType(step, scheduler)):
        yield calls


_signature = functools.cache(inspect.signature)


def _inside(iterable: Any) -> Any:
    """What a progress bar goes over, or the object itself."""
    return iterable.iterable if isinstance(iterable, tqdm) else iterable


def _replacing(name: str, original: Callable[..., Any], replace: OnPrepared) -> Callable[..., Any]:
    """`original`, with the first tensor of at least three dimensions in what it returns replaced."""
    calls = 0

    @functools.wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        site, calls = Site(name, calls), calls + 1
        output = original(*args, **kwargs)
        items = list(output) if isinstance(output, tuple) else [output]
        for i, item in builtins.enumerate(items):
            if isinstance(item, Tensor) and item.ndim >= 3:
                items[i] = replace(site, item)
                break
        return tuple(items) if isinstance(output, tuple) else items[0]

    return prepare


@contextmanager
def own_randomness() -> Iterator[None]:
    """A fixed seed inside, and the global state untouched. (`torch.manual_seed` is slower: it asks all kinds of devices.)"""
    generators = [torch.default_generator]
    if torch.cuda.is_available():
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(0)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def _entry(scope: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """Put a value into a module or an instance, in front of a method or a builtin, and take it back."""
    before = scope.get(name)
    scope[name] = value
    try:
        yield
    finally:
        if before is None:
            del scope[name]
        else:
            scope[name] = before
