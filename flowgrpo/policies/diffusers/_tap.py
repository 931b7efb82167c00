"""Run a pipeline's own `__call__` with its denoising loop under control.

The pipeline builds its schedule, encodes its prompts, applies its guidance and decodes; the tap hands it the state, restricts its
loop to the step that is wanted, and takes what arrives at `scheduler.step`. No line here knows a model.
"""

import builtins
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from flowgrpo.errors import UserError


class _Stop(Exception):
    """Ends a pipeline call once the tap has what it wanted."""


class Tap:
    """`begin`, `predict` and `finish` are the pipeline's call, cut to no step, one step and no step."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self.call = inspect.unwrap(type(pipe).__call__)
        """The call without `torch.no_grad`."""

    def begin(self, **arguments: Any) -> Tensor:
        """The initial latents; the scheduler is left with its timesteps set."""
        seen: list[Tensor] = []

        def keep(latents: Tensor) -> Tensor:
            seen.append(latents)
            return latents

        def stop() -> Iterator[int]:
            raise _Stop

        self._run(keep, stop, None, arguments)
        return seen[0]

    def predict(self, latents: Tensor, step: int, /, **arguments: Any) -> Tensor:
        """The model output that the pipeline gives its scheduler at `step` when its latents are these."""
        seen: list[Tensor] = []

        def take(model_output: Tensor) -> None:
            seen.append(model_output)
            raise _Stop

        self._run(lambda own: latents.to(own.dtype), lambda: iter([step]), take, arguments)
        return seen[0]

    def finish(self, latents: Tensor, /, **arguments: Any) -> Any:
        """The pipeline's output for final latents."""
        return self._run(lambda own: latents.to(own.dtype), lambda: iter(()), None, arguments)

    def _run(
        self,
        on_latents: Callable[[Tensor], Tensor],
        window: Callable[[], Iterator[int]],
        on_step: Callable[[Tensor], None] | None,
        arguments: dict[str, Any],
    ) -> Any:
        entered: list[bool] = []

        def steps() -> Iterator[int]:
            entered.append(True)
            return window()

        with self._latents(on_latents), self._loop(steps), self._step(on_step):
            try:
                output = self.call(self.pipe, **arguments)
            except _Stop:
                output = None
        if not entered:
            raise UserError(f"{type(self.pipe).__name__} has no loop over its scheduler's timesteps to take over")
        return output

    @contextmanager
    def _latents(self, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Pipelines that prepare no latents get theirs through the call's `latents`."""
        if "prepare_latents" not in dir(self.pipe):
            yield
            return
        original = self.pipe.prepare_latents

        @functools.wraps(original)
        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            parts = list(made) if isinstance(made, tuple) else [made]
            first = next(i for i, part in enumerate(parts) if isinstance(part, Tensor) and part.ndim >= 3)
            parts[first] = replace(parts[first])
            return tuple(parts) if isinstance(made, tuple) else parts[0]

        with _attribute(self.pipe, "prepare_latents", prepare_latents):
            yield

    @contextmanager
    def _loop(self, window: Callable[[], Iterator[int]]) -> Iterator[None]:
        """Let `enumerate(timesteps)` in the pipeline's module yield only the steps of the window."""

        def enumerate_(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
            if not self._is_schedule(iterable):
                return builtins.enumerate(iterable, start)
            return ((i, iterable[i]) for i in window())

        scope = self.call.__globals__
        scope["enumerate"] = enumerate_
        try:
            yield
        finally:
            del scope["enumerate"]

    def _is_schedule(self, iterable: Any) -> bool:
        if not isinstance(iterable, Tensor) or iterable.ndim != 1:
            return False
        timesteps = self.pipe.scheduler.timesteps
        return len(iterable) == len(timesteps) and bool(torch.equal(iterable, timesteps))

    @contextmanager
    def _step(self, take: Callable[[Tensor], None] | None) -> Iterator[None]:
        original = self.pipe.scheduler.step

        @functools.wraps(original)
        def step(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
            if take is not None:
                take(model_output)
            return original(model_output, *args, **kwargs)

        with _attribute(self.pipe.scheduler, "step", step):
            yield


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Shadow a method of one instance."""
    vars(owner)[name] = value
    try:
        yield
    finally:
        del vars(owner)[name]
