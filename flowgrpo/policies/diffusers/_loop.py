"""A pipeline's denoising loop, one step at a time.

Shapes: B samples; a state is [B, ...] (`_state`). The pipeline's own code runs, and Tap stands at three doors of it:

    pipe.__call__ { prepare latents   <- the state is injected here
                    for i, t in enumerate(timesteps):   <- which i are gone through
                        output = network(latents, t)
                        latents = scheduler.step(output, t, latents) }   <- taken over: a StepCall, and what it returns
                    decode }

    begin()       no iteration       the prepared latents are the first state
    called(x, 3)  iteration 3 only   x is injected; the StepCall holds the network's output at x; then Stop
    record()      all iterations     with the network at rest: what each does with the state is written down (`_trace`)
    predict(x, 3) none               what was written down of iteration 3, or called(x, 3) (`_recorded`)
    finish(x)     the last iteration its step returns x, and the rest of the call decodes it

Where an iteration needs those before it (`walks`), they are gone through with the network at rest (`idle`), and their steps give
back x; a `primed` network computes in the first of them.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import PreTrainedModel

from flowgrpo.core.errors import UserError
from flowgrpo.policies.diffusers._guidance import Against, Guidance, no_graph
from flowgrpo.policies.diffusers._idle import Idle
from flowgrpo.policies.diffusers._joined import Steps
from flowgrpo.policies.diffusers._recorded import Recordings, anew
from flowgrpo.policies.diffusers._runtime import decoders
from flowgrpo.policies.diffusers._state import StateMap, find_state
from flowgrpo.policies.diffusers._tap import Site, Span, StepCall, Stop, Tap
from flowgrpo.policies.diffusers._trace import NotRecorded, Program, Trace


class Loop:
    """`begin`, `predict` and `finish` are the pipeline's call, cut to no step, one step and the end of the last step.

    Copies go through the same network, and each learns what a state is for itself.
    `primed`: the loop's first iteration leaves in the network what later ones read, so it always runs before them.
    """

    def __init__(self, pipe: DiffusionPipeline, denoisers: Mapping[str, nn.Module], primed: bool) -> None:
        self.tap = Tap(pipe)
        self.denoisers = list(denoisers.values())
        self.idle = Idle({**denoisers, **helpers(pipe, denoisers)})
        self.guidance = Guidance(denoisers, self.idle)
        self.primed = primed
        self.recordings = Recordings(denoisers, primed)
        self.side_by_side = Steps()
        self.map: StateMap | None = None

    @torch.no_grad()
    def learn(self, arguments: dict[str, Any], dtype: torch.dtype) -> None:
        """Find out, with the arguments of a call for one sample, what the state is."""
        self.recordings.begin()
        self.map = find_state(self.tap, self.idle, arguments, dtype)

    @property
    def known(self) -> StateMap:
        assert self.map is not None
        return self.map

    def begin(self, arguments: dict[str, Any]) -> tuple[Tensor, Span]:
        """The initial state, and the part of the scheduler's timesteps that the loop runs over; they are set."""
        prepared: dict[Site, Tensor] = {}

        def note(site: Site, latents: Tensor) -> Tensor:
            prepared[site] = latents
            return latents

        def stop(length: int) -> Iterator[int]:
            raise Stop
            yield

        self.tap.run(arguments, stop, note, _unreachable)
        return self.known.gather(prepared), self.tap.spans[0]

    def predict(self, state: Tensor, step: int, arguments: dict[str, Any], against: Against | None = None) -> Tensor:
        """The model output that the pipeline gives its scheduler at `step` when its latents are these."""
        program = self.recordings.find(self, state, step, arguments)
        with self.guidance.exchanging(against):
            return self.called(state, step, arguments) if program is None else self.replayed(state, step, program)

    def replayed(self, state: Tensor, step: int, program: Program) -> Tensor:
        """The same, by what was written down of a call."""
        with self.guidance(step, len(state)):
            return program(state)

    def record(self, state: Tensor, arguments: dict[str, Any]) -> list[Program]:
        """What each step does with a state of such a shape. In one go, or one by one where each would have all before it in it.

        Errors: NotRecorded.
        """
        programs = self._written_down(state, anew(arguments), None)
        if not _growing(programs):
            return programs
        if self.known.walks:
            raise NotRecorded("each step of the pipeline needs all steps before it")
        return [self._written_down(state, anew(arguments), step)[0] for step in range(len(programs))]

    def _written_down(self, state: Tensor, arguments: dict[str, Any], only: int | None) -> list[Program]:
        """All steps, or `only` one."""
        components = [module for module in self.tap.pipe.components.values() if isinstance(module, nn.Module)]
        state = state.detach()
        trace, programs = Trace(state, components, self.denoisers), list[Program]()
        calls, taken = deque[StepCall](maxlen=self.known.calls), count(1)

        def steps(length: int) -> Iterator[int]:
            with self.idle():
                for trace.step in range(length) if only is None else [only]:
                    yield trace.step
            raise Stop

        def take(call: StepCall) -> Tensor:
            calls.append(call)
            number = next(taken) % self.known.calls
            if number == 0:
                programs.append(trace.program(self._shaped(self.known.prediction(calls, len(state)), state, trace.step)))
            apart = StepCall(call.model_output, trace.apart(call.sample))
            return self.known.stepped(apart, (number - 1) % self.known.calls, state)

        with no_graph(), trace:
            self.tap.run(arguments, steps, self._injecting(state), take)
        trace.require_unchanged()
        return programs

    def called(self, state: Tensor, step: int, arguments: dict[str, Any]) -> Tensor:
        """The same, by the pipeline's own call.

        Errors: UserError where it is not of the state's shape.
        """
        seen: list[StepCall] = []
        before = self._before(step)

        def take(call: StepCall) -> Tensor:
            seen.append(call)
            if len(seen) <= len(before) * self.known.calls:
                return self.known.stepped(call, (len(seen) - 1) % self.known.calls, state)
            if len(seen) == (len(before) + 1) * self.known.calls:
                raise Stop
            return call.sample

        with self.guidance(step, len(state)):
            self.tap.run(arguments, self._window([*before, (step, False)]), self._injecting(state), take)
        return self._shaped(self.known.prediction(seen[-self.known.calls :], len(state)), state, step)

    def _shaped(self, prediction: Tensor, state: Tensor, step: int) -> Tensor:
        if prediction.shape != state.shape:
            raise UserError(
                f"{type(self.tap.pipe).__name__} changes the size of its latents within the loop, to {list(prediction.shape)} at "
                f"step {step} from {list(state.shape)}; switch that off in policy.call"
            )
        return prediction

    def finish(self, state: Tensor, arguments: dict[str, Any]) -> Any:
        """The pipeline's output for a final state.

        Errors: UserError where it makes its output in several loops.
        """
        calls = 0

        def give(call: StepCall) -> Tensor:
            nonlocal calls
            calls += 1
            return self.known.stepped(call, (calls - 1) % self.known.calls, state)

        def last(length: int) -> Iterator[int]:
            return self._window([*self._before(length - 1), (length - 1, True)])(length)

        output = self.tap.run(arguments, last, self._injecting(state), give)
        if len(self.tap.spans) > 1:
            raise UserError(
                f"{type(self.tap.pipe).__name__} makes this output in {len(self.tap.spans)} loops, each a sampling of its own; "
                "set policy.call (num_frames, say) so that one is enough"
            )
        return output

    def _before(self, step: int) -> list[tuple[int, bool]]:
        """Iterations to go through before `step`, and whether the network rests in them."""
        if step == 0:
            return []
        if self.primed:
            return [(0, False)]
        return [(i, True) for i in range(step)] if self.known.walks else []

    def _window(self, iterations: list[tuple[int, bool]]) -> Any:
        def window(length: int) -> Iterator[int]:
            for i, rests in iterations:
                resting: AbstractContextManager[None] = self.idle() if rests else nullcontext()
                with resting:
                    yield i

        return window

    def _injecting(self, state: Tensor) -> Any:
        return lambda site, prepared: self.known.inject(site, prepared, state)


def helpers(pipe: DiffusionPipeline, denoisers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """What works beside the denoisers at each step, such as control nets: neither encoders nor decoders."""
    modules = {name: module for name, module in pipe.components.items() if isinstance(module, nn.Module)}
    apart = (*denoisers, *decoders(pipe), *(name for name, module in modules.items() if isinstance(module, PreTrainedModel)))
    return {name: module for name, module in modules.items() if name not in apart}


def _growing(programs: Sequence[Program]) -> bool:
    lengths = [len(program.lines) for program in programs[-3:]]
    return len(programs) > 3 and lengths == sorted(set(lengths))


def _unreachable(call: StepCall) -> Tensor:
    raise AssertionError("no step was asked for")
