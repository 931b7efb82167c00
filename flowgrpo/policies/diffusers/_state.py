"""What of a pipeline's latents is the state of the chain, found out by sending numbered elements through its loop.

Shapes: B samples, D elements of a state. Most pipelines step the tensor that they prepare, and a state is that tensor. Others
step a part of it, another view of it, or several tensors (pictures and sound), and a state is [B, D], all elements stepped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Stream:
    """D_k elements of a state: their places in a sample that is stepped, and in the tensor that was prepared at `site`."""

    stepped: np.ndarray
    site: Site
    prepared: np.ndarray


@dataclass(frozen=True)
class StateMap:
    """`streams` belong to the step calls of an iteration, in order; several may belong to one. Instead of them there is `whole`
    where a prepared tensor is the state as it is.

    What is prepared is stepped `factor` times as large, in a sample that holds `copies` of all rows. `walks`: an iteration needs
    those before it, which change the latents after their step, draw noise, or set what later ones read.
    """

    calls: int
    streams: Sequence[tuple[int, Stream]]
    whole: Site | None
    factor: float
    copies: int
    walks: bool

    def gather(self, prepared: Mapping[Site, Tensor]) -> Tensor:
        """The state [B, ...] in what was prepared."""
        if self.whole:
            return prepared[self.whole].float() * self.factor
        parts = [_rows(prepared[s.site])[:, torch.from_numpy(s.prepared)] for _, s in self.streams]
        return torch.cat(parts, dim=1).float() * self.factor

    def inject(self, site: Site, own: Tensor, state: Tensor) -> Tensor:
        """What was prepared at a site, with the state in it."""
        if site == self.whole:
            if own.shape != state.shape:
                raise UserError(
                    f"the pipeline prepares latents {list(own.shape)}, but the state is {list(state.shape)}: give "
                    "height and width (and num_frames) in policy.call, so that all prompts have one size"
                )
            return (state / self.factor).to(own.dtype)
        if self.whole:
            return own
        for (_, stream), columns in self._columns(state):
            if stream.site == site:
                rows = _rows(own).clone()
                rows[:, torch.from_numpy(stream.prepared)] = (columns / self.factor).to(own.dtype)
                own = rows.view(own.shape)
        return own

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
        return torch.cat([rows[k][:, torch.from_numpy(s.stepped)] for k, s in self.streams], dim=1)

    def stepped(self, call: StepCall, number: int, state: Tensor) -> Tensor:
        """The sample that the pipeline gets back from its `number`-th step, when the state after it is this one."""
        if self.whole:
            return state.to(call.sample.dtype)
        first = self._first(call.sample)
        rows = _rows(first, len(state)).clone()
        for (k, stream), columns in self._columns(state):
            if k == number:
                rows[:, torch.from_numpy(stream.stepped)] = columns.to(rows.dtype)
        return torch.cat([rows.view(first.shape)] * self.copies)

    def _columns(self, state: Tensor) -> Iterator[tuple[tuple[int, Stream], Tensor]]:
        sizes = [len(stream.prepared) for _, stream in self.streams]
        return zip(self.streams, state.split(sizes, dim=1), strict=True)

    def _first(self, sample: Tensor) -> Tensor:
        return sample[: len(sample) // self.copies]


def probe(tap: Tap, idle: Idle, arguments: dict[str, Any], dtype: torch.dtype) -> StateMap:
    """Two iterations of a call for one sample, whose prepared latents are numbered.

    A number that arrives at a step is an element that is stepped, and part of the state, unless it arrives at the next step as it
    was: then it is held fixed. If neither it nor what the step returned arrives there, the loop writes over it. Where the loop
    draws noise, more passes tell a number from noise that is one by chance.
    """
    numbered = _Numbers(BASE[dtype])
    passes = [_pass(tap, arguments, numbered, 0)]
    numbered.factor = numbered.scale(passes[0].first)
    digits = range(ceil(log(numbered.total, numbered.base)))
    passes = [_pass(tap, arguments, numbered, place) for place in [*digits, *([0, 0] if passes[0].draws else [])]]
    calls = [numbered.decode([(p.place, p.first[k]) for p in passes], 1) for k in range(len(passes[0].first))]
    later, stay = calls, [np.full_like(codes, -1) for codes in calls]
    if passes[0].second:
        later, stay = ([numbered.decode([(p.place, p.second[k]) for p in passes], n) for k in range(len(calls))] for n in (2, 1))
    streams: list[tuple[int, Stream]] = []
    copies = 1
    walks = passes[0].draws or not _skips(tap, arguments, numbered, idle)
    for k, codes in enumerate(calls):
        coded = (codes >= 0) & (codes < numbered.total)
        live = coded & (stay[k] != codes)
        walks |= bool((live & (later[k] != codes)).any())
        places = np.flatnonzero(live)
        _, chosen = np.unique(codes[places], return_index=True)
        copies = max(copies, len(places) // max(1, len(chosen)))
        places = places[np.sort(chosen)]
        for site, (offset, tensor) in numbered.sites.items():
            inside = places[(codes[places] >= offset) & (codes[places] < offset + tensor.numel())]
            if len(inside):
                streams.append((k, Stream(inside, site, codes[inside] - offset)))
    if not streams:
        raise UserError(
            f"{type(tap.pipe).__name__}: its latents do not reach the scheduler's step as they were prepared, so its steps can't "
            "be taken over"
        )
    whole = _whole(streams, numbered, passes[0].first)
    return StateMap(len(calls), () if whole else streams, whole, numbered.factor, copies, walks)


class _Numbers:
    def __init__(self, base: int) -> None:
        self.base, self.factor = base, 1.0
        self.sites: dict[Site, tuple[int, Tensor]] = {}
        self.total = 0

    def scale(self, samples: Sequence[Tensor]) -> float:
        """Between what was prepared and what is stepped, where that is one tensor at another scale; else 1."""
        tensors = [own for _, own in self.sites.values()]
        if len(tensors) != 1 or len(samples) != 1 or samples[0].shape != tensors[0].shape:
            return 1.0
        (own,) = tensors
        ratios = samples[0].double().flatten().cpu() / self.digits(own, 0, 0).double().flatten().cpu()
        found = float(ratios[0])
        return found if found > 0.0 and bool((ratios - found).abs().max() < 1e-6 * found) else 1.0

    def digit(self, site: Site, own: Tensor, place: int) -> Tensor:
        if site not in self.sites:
            self.sites[site] = (self.total, own)
            self.total += own.numel()
        return self.digits(own, self.sites[site][0], place)

    def digits(self, own: Tensor, offset: int, place: int) -> Tensor:
        codes = offset + torch.arange(own.numel(), device=own.device)
        digit = codes // self.base**place % self.base
        return (digit + self.base).view(own.shape).to(own.dtype)

    def decode(self, samples: Sequence[tuple[int, Tensor]], level: int) -> np.ndarray:
        """The numbers in samples, of which each shows the digit at a place, from `level` times the base on; -1 for none."""
        digits: dict[int, np.ndarray] = {}
        known = np.ones(samples[0][1].numel(), dtype=bool)
        for place, sample in samples:
            value = sample.double().flatten().cpu().numpy() / self.factor - level * self.base
            known &= (value >= 0) & (value < self.base) & (value == np.round(value)) & (value == digits.get(place, value))
            digits[place] = value
        codes = sum(np.where(known, digit, 0).astype(np.int64) * self.base**place for place, digit in digits.items())
        return np.where(known, codes, -1)


@dataclass(frozen=True)
class _Pass:
    """The samples at the steps of the first iteration and of the second, which is empty where there is just one, when they showed
    the digit at `place`; and whether the second iteration drew from a generator."""

    place: int
    first: list[Tensor]
    second: list[Tensor]
    draws: bool


def _pass(tap: Tap, arguments: dict[str, Any], numbered: _Numbers, place: int) -> _Pass:
    found: list[list[Tensor]] = []
    seeds: list[Tensor] = []

    def window(length: int) -> Iterator[int]:
        for i in range(min(2, length)):
            found.append([])
            seeds.append(_seed(arguments["generator"]))
            yield i
        seeds.append(_seed(arguments["generator"]))
        raise Stop

    def step(call: StepCall) -> Tensor:
        found[-1].append(call.sample.detach().clone())
        return call.sample + numbered.base * numbered.factor

    tap.run(arguments, window, lambda site, own: numbered.digit(site, own, place), step)
    return _Pass(place, found[0], found[1] if len(found) > 1 else [], not torch.equal(seeds[-2], seeds[-1]))


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
            tap.run(arguments, second, lambda site, own: numbered.digit(site, own, 0), lambda call: call.sample)
    except NameError:
        return False
    return True


def _whole(streams: Sequence[tuple[int, Stream]], numbered: _Numbers, samples: Sequence[Tensor]) -> Site | None:
    """The site whose tensor is stepped as it is, if there is just this one."""
    if len(streams) != 1 or len(samples) != 1:
        return None
    _, stream = streams[0]
    own = numbered.sites[stream.site][1]
    same = own.shape == samples[0].shape and np.array_equal(stream.stepped, np.arange(own.numel()))
    return stream.site if same and np.array_equal(stream.prepared, stream.stepped) else None


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
