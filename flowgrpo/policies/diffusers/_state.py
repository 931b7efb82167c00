"""What of a pipeline's latents is the state of the chain, found out by sending numbered elements through its loop.

Shapes: B samples, D elements of a state. Most pipelines step the tensor that they prepare, and a state is that tensor. Others
step a part of it, another view of it, or several tensors (pictures and sound), and a state is [B, D], all elements stepped.

A pipeline that packs 6 prepared elements and holds the first one fixed (the picture that a clip begins with); base b = 2048, so
that the digits are b .. 2 b - 1 and a step adds b:

    prepared at a site     b+0  b+1  b+2  b+3  b+4  b+5       element i holds its number
    sample of step 1       b+0  b+3  b+1  b+4  b+2  b+5       the loop has another order: positions 0 .. 5
    it returns             2b+0 2b+3 2b+1 2b+4 2b+2 2b+5
    sample of step 2       b+0  2b+3 2b+1 2b+4 2b+2 2b+5      position 0 is as it was: held fixed, no state

    Elements(stepped=[1 2 3 4 5], prepared=[3 1 4 2 5])         the state's elements in the sample, and in what was prepared

Where there are more elements than digits, one pass more shows the next digit of each number, in base b.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.policies.diffusers._idle import Idle
from flowgrpo.policies.diffusers._tap import Site, StepCall, Stop, Tap

BASE = {torch.float32: 2**11, torch.float16: 512, torch.bfloat16: 80}
"""Digits b .. 3 b - 1 are whole numbers that the type holds, in float32 with room for what is not whole."""


@dataclass(frozen=True, eq=False)
class Elements:
    """D_k elements of a state: their positions in a sample that is stepped, and in the tensor that was prepared at `site`."""

    stepped: np.ndarray
    site: Site
    prepared: np.ndarray

    def stepped_on(self, device: torch.device) -> Tensor:
        return self._on(device)[0]

    def prepared_on(self, device: torch.device) -> Tensor:
        return self._on(device)[1]

    @cached_property
    def _copies(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The positions, as numbers that this device has already."""
        if device not in self._copies:
            self._copies[device] = torch.from_numpy(self.stepped).to(device), torch.from_numpy(self.prepared).to(device)
        return self._copies[device]


@dataclass(frozen=True)
class StateMap:
    """`elements` belong to the step calls of an iteration, in order; several may belong to one. Instead of them there is `whole`
    where a prepared tensor is the state as it is.

    What is prepared is stepped `factor` times as large, in a sample that holds `copies` of all rows. `walks`: an iteration needs
    those before it, which change the latents after their step, draw noise, or set what later ones read.
    """

    calls: int
    elements: Sequence[tuple[int, Elements]]
    whole: Site | None
    factor: float
    copies: int
    walks: bool

    def gather(self, prepared: Mapping[Site, Tensor]) -> Tensor:
        """The state [B, ...] in what was prepared."""
        if self.whole:
            return prepared[self.whole].float() * self.factor
        columns = [_rows(prepared[s.site])[:, s.prepared_on(prepared[s.site].device)] for _, s in self.elements]
        return torch.cat(columns, dim=1).float() * self.factor

    def inject(self, site: Site, prepared: Tensor, state: Tensor) -> Tensor:
        """What was prepared at a site, with the state in it."""
        if site == self.whole:
            if prepared.shape != state.shape:
                raise UserError(
                    f"the pipeline prepares latents {list(prepared.shape)}, but the state is {list(state.shape)}: give "
                    "height and width (and num_frames) in policy.call, so that all prompts have one size"
                )
            return (state / self.factor).to(prepared.dtype)
        if self.whole:
            return prepared
        for (_, some), columns in self._columns(state):
            if some.site == site:
                rows = _rows(prepared).clone()
                rows[:, some.prepared_on(rows.device)] = (columns / self.factor).to(prepared.dtype)
                prepared = rows.view(prepared.shape)
        return prepared

    def prediction(self, calls: Sequence[StepCall], samples: int) -> Tensor:
        """The model's outputs at the state [B, ...]."""
        return self._state([_output(call) for call in calls], samples)

    def sample(self, calls: Sequence[StepCall], samples: int) -> Tensor:
        """The state [B, ...] that the calls step."""
        return self._state([call.sample for call in calls], samples)

    def _state(self, outputs: Sequence[Tensor], samples: int) -> Tensor:
        if self.whole:
            return outputs[0]
        rows = [_rows(self._first(output), samples) for output in outputs]
        return torch.cat([rows[k][:, s.stepped_on(rows[k].device)] for k, s in self.elements], dim=1)

    def stepped(self, call: StepCall, number: int, state: Tensor) -> Tensor:
        """The sample that the pipeline gets back from its `number`-th step, when the state after it is this one."""
        if self.whole:
            return state.to(call.sample.dtype)
        first = self._first(call.sample)
        rows = _rows(first, len(state)).clone()
        for (k, some), columns in self._columns(state):
            if k == number:
                rows[:, some.stepped_on(rows.device)] = columns.to(rows.dtype)
        return torch.cat([rows.view(first.shape)] * self.copies)

    def _columns(self, state: Tensor) -> Iterator[tuple[tuple[int, Elements], Tensor]]:
        sizes = [len(some.prepared) for _, some in self.elements]
        return zip(self.elements, state.split(sizes, dim=1), strict=True)

    def _first(self, sample: Tensor) -> Tensor:
        return sample[: len(sample) // self.copies]


def find_state(tap: Tap, idle: Idle, arguments: dict[str, Any], dtype: torch.dtype) -> StateMap:
    """Two iterations of a call for one sample, whose prepared latents are numbered.

    A number that arrives at a step is an element that is stepped, and part of the state, unless it arrives at the next step as it
    was: then it is held fixed. If neither it nor what the step returned arrives there, the loop writes over it. Where the loop
    draws noise, more passes tell a number from noise that is one by chance.
    """
    numbered = _Numbers(BASE[dtype])
    passes = [_pass(tap, arguments, numbered, 0)]
    numbered.factor = numbered.scale(passes[0].first)
    digits = range(ceil(log(numbered.total, numbered.base)))
    passes = [_pass(tap, arguments, numbered, power) for power in [*digits, *([0, 0] if passes[0].draws else [])]]
    calls = [numbered.decode([(p.power, p.first[k]) for p in passes], 1) for k in range(len(passes[0].first))]
    later, stay = calls, [np.full_like(codes, -1) for codes in calls]
    if passes[0].second:
        later, stay = ([numbered.decode([(p.power, p.second[k]) for p in passes], n) for k in range(len(calls))] for n in (2, 1))
    elements: list[tuple[int, Elements]] = []
    copies = 1
    walks = passes[0].draws or not _skips(tap, arguments, numbered, idle)
    for k, codes in enumerate(calls):
        coded = (codes >= 0) & (codes < numbered.total)
        live = coded & (stay[k] != codes)
        walks |= bool((live & (later[k] != codes)).any())
        positions = np.flatnonzero(live)
        _, chosen = np.unique(codes[positions], return_index=True)
        copies = max(copies, len(positions) // max(1, len(chosen)))
        positions = positions[np.sort(chosen)]
        for site, (offset, tensor) in numbered.sites.items():
            inside = positions[(codes[positions] >= offset) & (codes[positions] < offset + tensor.numel())]
            if len(inside):
                elements.append((k, Elements(inside, site, codes[inside] - offset)))
    if not elements:
        raise UserError(
            f"{type(tap.pipe).__name__}: its latents do not reach the scheduler's step as they were prepared, so its steps can't "
            "be taken over"
        )
    whole = _whole(elements, numbered, passes[0].first)
    return StateMap(len(calls), () if whole else elements, whole, numbered.factor, copies, walks)


class _Numbers:
    def __init__(self, base: int) -> None:
        self.base, self.factor = base, 1.0
        self.sites: dict[Site, tuple[int, Tensor]] = {}
        self.total = 0

    def scale(self, samples: Sequence[Tensor]) -> float:
        """Between what was prepared and what is stepped, where that is one tensor at another scale; else 1."""
        tensors = [prepared for _, prepared in self.sites.values()]
        if len(tensors) != 1 or len(samples) != 1 or samples[0].shape != tensors[0].shape:
            return 1.0
        (prepared,) = tensors
        ratios = samples[0].double().flatten().cpu() / self.digits(prepared, 0, 0).double().flatten().cpu()
        ratio = float(ratios[0])
        return ratio if ratio > 0.0 and bool((ratios - ratio).abs().max() < 1e-6 * ratio) else 1.0

    def digit(self, site: Site, prepared: Tensor, power: int) -> Tensor:
        """For what is prepared at a site, the same tensor with the digits of its numbers at a power of the base."""
        if site not in self.sites:
            self.sites[site] = (self.total, prepared)
            self.total += prepared.numel()
        return self.digits(prepared, self.sites[site][0], power)

    def digits(self, prepared: Tensor, offset: int, power: int) -> Tensor:
        codes = offset + torch.arange(prepared.numel(), device=prepared.device)
        digit = codes // self.base**power % self.base
        return (digit + self.base).view(prepared.shape).to(prepared.dtype)

    def decode(self, samples: Sequence[tuple[int, Tensor]], level: int) -> np.ndarray:
        """The numbers in samples, of which each shows the digit at a power of the base, from `level` times the base on; -1 for
        none."""
        digits: dict[int, np.ndarray] = {}
        known = np.ones(samples[0][1].numel(), dtype=bool)
        for power, sample in samples:
            value = sample.double().flatten().cpu().numpy() / self.factor - level * self.base
            known &= (value >= 0) & (value < self.base) & (value == np.round(value)) & (value == digits.get(power, value))
            digits[power] = value
        codes = sum(np.where(known, digit, 0).astype(np.int64) * self.base**power for power, digit in digits.items())
        return np.where(known, codes, -1)


@dataclass(frozen=True)
class _Pass:
    """The samples at the steps of the first iteration and of the second, which is empty where there is just one, when they showed
    the digit at `power`; and whether the second iteration drew from a generator."""

    power: int
    first: list[Tensor]
    second: list[Tensor]
    draws: bool


def _pass(tap: Tap, arguments: dict[str, Any], numbered: _Numbers, power: int) -> _Pass:
    iterations: list[list[Tensor]] = []
    seeds: list[Tensor] = []

    def window(length: int) -> Iterator[int]:
        for i in range(min(2, length)):
            iterations.append([])
            seeds.append(_seed(arguments["generator"]))
            yield i
        seeds.append(_seed(arguments["generator"]))
        raise Stop

    def step(call: StepCall) -> Tensor:
        iterations[-1].append(call.sample.detach().clone())
        return call.sample + numbered.base * numbered.factor

    tap.run(arguments, window, lambda site, prepared: numbered.digit(site, prepared, power), step)
    return _Pass(power, iterations[0], iterations[1] if len(iterations) > 1 else [], not torch.equal(seeds[-2], seeds[-1]))


def _seed(generator: torch.Generator) -> Tensor:
    return torch.cat([generator.get_state(), torch.get_rng_state()])


def _skips(tap: Tap, arguments: dict[str, Any], numbered: _Numbers, idle: Idle) -> bool:
    """Whether the second iteration can run without the first: whether it finds all names that it reads."""

    def second(length: int) -> Iterator[int]:
        if length > 1:
            yield 1
        raise Stop

    try:
        with idle():
            tap.run(arguments, second, lambda site, prepared: numbered.digit(site, prepared, 0), lambda call: call.sample)
    except NameError:
        return False
    return True


def _whole(elements: Sequence[tuple[int, Elements]], numbered: _Numbers, samples: Sequence[Tensor]) -> Site | None:
    """The site whose tensor is stepped as it is, if there is just this one."""
    if len(elements) != 1 or len(samples) != 1:
        return None
    _, some = elements[0]
    prepared = numbered.sites[some.site][1]
    same = prepared.shape == samples[0].shape and np.array_equal(some.stepped, np.arange(prepared.numel()))
    return some.site if same and np.array_equal(some.prepared, some.stepped) else None


def _output(call: StepCall) -> Tensor:
    """Without the channels of a learned variance."""
    output, sample = call.model_output, call.sample
    if output.shape[1:2] != sample.shape[1:2] and output.shape[1] == 2 * sample.shape[1]:
        output = output[:, : sample.shape[1]]
    if output.shape != sample.shape:
        raise UserError(f"the network's output {list(output.shape)} is not of the shape of the latents {list(sample.shape)}")
    return output


def _rows(x: Tensor, samples: int | None = None) -> Tensor:
    return x.reshape(samples or len(x), -1)
