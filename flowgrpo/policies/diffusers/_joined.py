"""Recorded steps side by side: one evaluation of states of different steps.

The lines of two steps are the same where only constants differ. A constant either has a row for each of R blocks of B samples, as
times and embeddings do, or is one for all; which of both shows when calls of two and of three samples are recorded. Side by side,
those with rows are put together block by block.

    step 3, B = 2      timestep [a, a,  a, a]           R = 2 blocks, by guidance
    step 5, B = 1      timestep [b,  b]
    together           timestep [a, a, b,  a, a, b]
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from flowgrpo.core.keys import torch_generator
from flowgrpo.policies._dtypes import ROUNDINGS
from flowgrpo.policies.diffusers._guidance import no_graph
from flowgrpo.policies.diffusers._recorded import Call, Recordings, StandIn, Stepping
from flowgrpo.policies.diffusers._tap import own_randomness
from flowgrpo.policies.diffusers._trace import Line, NotRecorded, Program, Slot, filled, same

Layout = tuple[int, ...]
"""R of each leaf of the lines' arguments; 0 for what has no rows."""
Asked = tuple[Tensor, int, Call]
"""A state [B, ...], its step, and the arguments of the call."""
Few = Callable[[int], Call]
"""Arguments of a call for so many samples."""


class Joining(Stepping, Protocol):
    """A loop whose steps are recorded."""

    recordings: Recordings


@dataclass(frozen=True)
class Part:
    """A step of a call of B samples. Slots are numbered in order, and lines are left out that give the state back."""

    lines: Sequence[Line]
    output: int
    leaves: Sequence[Any]
    """Of the arguments of all lines."""
    trees: Sequence[TreeSpec]
    samples: int

    @classmethod
    def of(cls, program: Program, state: Tensor) -> "Part":
        lines, numbers = [line for line, _ in program.lines], {0: 0}
        while lines and (slot := _given_back(lines[0], state, numbers)) is not None:
            numbers[slot] = 0
            lines.pop(0)
        for slot in (slot for line in lines for _, slot in line.made):
            numbers.setdefault(slot, max(numbers.values()) + 1)
        flat, trees = zip(*(tree_flatten((line.args, line.kwargs)) for line in lines), strict=True)
        leaves = [Slot(numbers[x.number]) if isinstance(x, Slot) else x for row in flat for x in row]
        renumbered = [replace(line, made=[(place, numbers[slot]) for place, slot in line.made]) for line in lines]
        return cls(renumbered, numbers[program.output], leaves, trees, len(state))

    def like(self, other: "Part", layout: Layout) -> bool:
        """Whether both are the same but for rows."""
        return (
            self._in_form(other)
            and len(layout) == len(self.leaves)
            and all(
                _rows_alike(a, self.samples, b, other.samples, r) if r else _equal(a, b)
                for a, b, r in zip(self.leaves, other.leaves, layout, strict=True)
            )
        )

    def _in_form(self, other: "Part") -> bool:
        pairs = zip(self.lines, other.lines, strict=False)
        return (self.output, self.trees, len(self.lines)) == (other.output, other.trees, len(other.lines)) and all(
            a.function is b.function and a.made == b.made for a, b in pairs
        )

    def layout(self, more: "Part") -> Layout:
        """By the same step for another number of samples. Errors: NotRecorded."""
        if not self._in_form(more):
            raise NotRecorded("it goes another way for another number of samples")
        return tuple(self._blocks(a, more, b) for a, b in zip(self.leaves, more.leaves, strict=True))

    def _blocks(self, a: Any, more: "Part", b: Any) -> int:
        if _equal(a, b):
            return 0
        blocks = len(a) // self.samples if isinstance(a, Tensor) and a.ndim else 0
        if not blocks or not _rows_alike(a, self.samples, b, more.samples, blocks):
            raise NotRecorded("it counts its samples")
        return blocks


def joined(parts: Sequence[Part], layout: Layout) -> Program:
    """What these do, which are alike, with their states one after the other."""
    leaves = [
        _blockwise(given, [part.samples for part in parts], blocks) if blocks else given[0]
        for blocks, *given in zip(layout, *(part.leaves for part in parts), strict=True)
    ]
    lines, at = [], 0
    for line, tree in zip(parts[0].lines, parts[0].trees, strict=True):
        args, kwargs = tree_unflatten(leaves[at : at + tree.num_leaves], tree)
        at += tree.num_leaves
        lines.append((replace(line, args=args, kwargs=kwargs), frozenset[int]()))
    return Program(lines, parts[0].output, [])


@dataclass(frozen=True)
class Group:
    """Parts that are alike, and their numbers in what was asked."""

    layout: Layout
    numbers: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


class Steps:
    """Of a pipeline's loop: those that can be evaluated side by side. Found out at first use, for each kind of call."""

    def __init__(self) -> None:
        self.layouts: dict[Hashable, Sequence[Layout]] = {}

    def predict(self, loop: Joining, asked: Sequence[Asked], few: Few, unit_roundoff: float) -> list[Tensor]:
        """[B, ...] of each. Who is evaluated with whom depends on nothing but what is asked. Errors: NotRecorded where the steps
        of the pipeline can't be side by side."""
        groups: list[Group] = []
        for number, (state, step, arguments) in enumerate(asked):
            layout = self._layout(loop, state, arguments, few, unit_roundoff)[step]
            part = Part.of(loop.recordings.steps(loop, state, arguments)[step], state)
            if len(part.leaves) != len(layout):
                raise NotRecorded("it goes another way for another number of samples")
            group = next((group for group in groups if part.like(group.parts[0], group.layout)), None)
            if group is None:
                groups.append(group := Group(layout))
            group.numbers.append(number)
            group.parts.append(part)
        found: dict[int, Tensor] = {}
        for group in groups:
            states = torch.cat([asked[number][0] for number in group.numbers])
            rows = loop.replayed(states, asked[group.numbers[0]][1], joined(group.parts, group.layout))
            found |= zip(group.numbers, rows.split([part.samples for part in group.parts]), strict=True)
        return [found[number] for number in range(len(asked))]

    def _layout(self, loop: Joining, state: Tensor, arguments: Call, few: Few, unit_roundoff: float) -> Sequence[Layout]:
        """Of all steps of this kind of call."""
        kind = (tuple((name, type(value)) for name, value in arguments.items()), state.shape[1:], state.dtype)
        if kind not in self.layouts:
            with no_graph():
                self.layouts[kind] = _learned(loop, state, few, unit_roundoff)
        return self.layouts[kind]


def _learned(loop: Joining, like: Tensor, few: Few, unit_roundoff: float) -> Sequence[Layout]:
    """By calls of two and of three samples. Errors: NotRecorded."""
    two, three = (
        torch.randn(count, *like.shape[1:], generator=torch_generator(("side by side", count))).to(like) for count in (2, 3)
    )
    programs = [[(state, step) for step in loop.recordings.steps(loop, state, few(len(state)))] for state in (two, three)]
    parts = [[Part.of(program, state) for state, program in row] for row in programs]
    layouts = [fewer.layout(more) for fewer, more in zip(*parts, strict=True)]
    groups: list[list[int]] = []
    for step, part in enumerate(parts[0]):
        fit = next((group for group in groups if part.like(parts[0][group[0]], layouts[step])), None)
        if fit is None:
            groups.append([step])
        else:
            fit.append(step)
    if len(groups) == len(layouts) > 1:
        raise NotRecorded("a step differs from the next in more than what has a row for each sample")
    with own_randomness(), loop.idle.rehearsal():
        for group in groups:
            different, equal = (
                Trial(
                    loop,
                    steps,
                    [programs[i % 2][step] for i, step in enumerate(steps)],
                    joined([parts[i % 2][step] for i, step in enumerate(steps)], layouts[steps[0]]),
                )
                for steps in (group, group[:1] * len(group))
            )
            different.require_rows()
            if different.apart() > ROUNDINGS * max(equal.apart(), unit_roundoff):
                raise NotRecorded("the network says something else of a sample beside one of another step")
    return layouts


@dataclass(frozen=True)
class Trial:
    """Programs of these steps `alone`, with a state each, and `together`."""

    loop: Joining
    steps: Sequence[int]
    alone: Sequence[tuple[Tensor, Program]]
    together: Program

    def require_rows(self) -> None:
        """Errors: NotRecorded where the network is given other rows than alone."""
        seen, given = StandIn(self.loop.idle), []
        with self.loop.guidance.stood_in(seen):
            self._evaluated()
        for step, (state, program) in zip(self.steps, self.alone, strict=True):
            one = StandIn(self.loop.idle)
            with self.loop.guidance.stood_in(one):
                self.loop.replayed(state, step, program)
            given.append(tree_leaves(one.given))
        sizes = [len(state) for state, _ in self.alone]
        for found, *rows in zip(tree_leaves(seen.given), *given, strict=True):
            if not isinstance(found, Tensor) or all(same(found, row) for row in rows):
                continue
            blocks = len(found) // sum(sizes) if found.ndim else 0
            if not blocks or not torch.equal(found, _blockwise(rows, sizes, blocks)):
                raise NotRecorded("the network would be given other rows than alone")

    def apart(self) -> float:
        """The most that a sample's prediction differs from what it is alone, relative to its size."""
        said = [self.loop.replayed(state, step, program) for step, (state, program) in zip(self.steps, self.alone, strict=True)]
        expected = torch.cat(said).double().flatten(1)
        difference = self._evaluated().double().flatten(1) - expected
        return float((difference.norm(dim=1) / expected.norm(dim=1)).nan_to_num(nan=0.0).max())

    def _evaluated(self) -> Tensor:
        return self.loop.replayed(torch.cat([state for state, _ in self.alone]), self.steps[0], self.together)


def _blockwise(rows: Sequence[Tensor], samples: Sequence[int], blocks: int) -> Tensor:
    cut = [row.split(count) for row, count in zip(rows, samples, strict=True)]
    return torch.cat([pieces[block] for block in range(blocks) for pieces in cut])


def _given_back(line: Line, state: Tensor, numbers: dict[int, int]) -> int | None:
    """The slot of a tensor that is the state itself, or None."""
    flat, _ = tree_flatten((line.args, line.kwargs))
    if line.step is not None or line.writes or len(line.made) != 1 or any(isinstance(leaf, Tensor) for leaf in flat):
        return None
    if {numbers.get(slot) for slot in line.reads} != {0}:
        return None
    values = dict.fromkeys(numbers, state)
    result = line.function(*filled(line.args, values), **filled(line.kwargs, values))
    return line.made[0][1] if isinstance(result, Tensor) and same(result, state) else None


def _rows_alike(a: Any, samples: int, b: Any, others: int, blocks: int) -> bool:
    return (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and (a.dtype, a.shape[1:], len(a)) == (b.dtype, b.shape[1:], blocks * samples)
        and len(b) == blocks * others
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and same(a, b)
    return bool(type(a) is type(b) and a == b)
