"""Which evaluations of a denoiser guidance moves away from, found out by made-up answers; and those, without a graph.

Shapes: B samples. A call of a denoiser evaluates R blocks of B rows; an iteration of a pipeline makes one or several calls.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import KeyPath, tree_map

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import torch_generator
from flowgrpo.policies._dtypes import ROUNDINGS
from flowgrpo.policies.diffusers._blocks import Form, has, is_list, rows_of, taken, with_rows
from flowgrpo.policies.diffusers._idle import Idle

ALIKE = 1e-4
"""Relative difference that is rounding in any network, on any machine; samples that see one another differ by far more."""
MOVE = 0.125
"""Of a made-up answer; small, since some guidance normalises."""
NOTICED = 0.01
"""A share of the prediction's move below this is rounding."""

Evaluate = Callable[[int], Tensor]
"""The prediction at a step, for one sample."""
Block = tuple[int, int]
"""(call in an iteration, block in the call)."""


@dataclass(frozen=True)
class Call:
    """R `blocks`, and those that guidance moves `away` from. `rowed`: the arguments that have a row for each block, and whether
    they are lists of tensors that have them. `form` is that of an answer that is one tensor, or one list, of rows."""

    blocks: int
    away: frozenset[int]
    rowed: Mapping[KeyPath, bool]
    form: Form | None = None

    @property
    def split(self) -> bool:
        return 0 < len(self.away) < self.blocks


class Against:
    """What the calls of an iteration say of the K blocks in all that guidance moves away from: noted as it is evaluated, or
    `given`, [B, K, ...], and not evaluated."""

    def __init__(self, given: Tensor | None = None) -> None:
        self.given = None if given is None else iter(given.unbind(1))
        self.noted: list[tuple[Form, int, Any]] = []

    def __call__(self, call: Call, evaluate: Callable[[], Any]) -> Any:
        if call.form and self.given:
            return call.form.answer(torch.cat([next(self.given) for _ in call.away]))
        with no_graph():
            answer = evaluate()
        if call.form:
            self.noted.append((call.form, len(call.away), answer))
        return answer

    @property
    def rows(self) -> Tensor | None:
        """[B, K, ...]; None where nothing was noted, or not all that was is alike."""
        blocks = [block for form, count, answer in self.noted for block in form.rows(answer).chunk(count)]
        return torch.stack(blocks, 1) if len({block.shape for block in blocks}) == 1 else None


class Role(Protocol):
    """Stands for a denoiser."""

    def __call__(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class Guidance:
    """Denoisers that, once learned, keep no graph of what guidance moves away from."""

    def __init__(self, modules: Mapping[str, nn.Module], idle: Idle) -> None:
        self.idle = idle
        self.steps: dict[int, Sequence[Call]] = {}
        self.trial: Role | None = None
        self.role: Role | None = None
        self.against: Against | None = None
        for module in modules.values():
            module.forward = self._shadow(module.forward)

    @contextmanager
    def __call__(self, step: int, samples: int) -> Iterator[None]:
        """Around the evaluation of B samples at a step."""
        learned = self.steps.get(step)
        self.role = self.trial or (Halves(learned, samples, self.against) if learned else None)
        try:
            yield
        finally:
            self.role = None

    @contextmanager
    def exchanging(self, against: Against | None) -> Iterator[None]:
        """Inside, what an evaluation says of that which guidance moves away from is noted here, or taken from here."""
        self.against = against
        try:
            yield
        finally:
            self.against = None

    @torch.no_grad()
    def learn(self, steps: int, evaluate: Evaluate, unit_roundoff: float) -> None:
        """Errors: UserError where no step has a prediction that guidance moves away from, or where it can't be made apart."""
        weighed = {step: self._weigh(step, evaluate) for step in range(steps)}
        if not any(call.away for calls, _ in weighed.values() for call in calls):
            raise _refusal("no step of the pipeline is guided by a second prediction")
        compared: list[list[Call]] = []
        for step, (calls, gain) in weighed.items():
            if calls not in compared and any(call.split for call in calls):
                self._compare(calls, step, evaluate, max(ROUNDINGS * gain * unit_roundoff, ALIKE))
                compared.append(calls)
        self.steps.update({step: calls for step, (calls, _) in weighed.items()})

    def _shadow(self, forward: Any) -> Any:
        @wraps(forward)
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            if self.role is None or self.idle.resting:
                return forward(*args, **kwargs)
            return self.role(forward, args, kwargs)

        return evaluate

    @contextmanager
    def stood_in(self, trial: Role) -> Iterator[None]:
        """Inside, this answers instead of the denoisers."""
        self.trial = trial
        try:
            yield
        finally:
            self.trial = None

    def _tried(self, trial: Role, step: int, evaluate: Evaluate) -> Tensor:
        with self.stood_in(trial):
            return evaluate(step).double().flatten()

    def _weigh(self, step: int, evaluate: Evaluate) -> tuple[list[Call], float]:
        """The calls of an iteration, and the sum of their weights' sizes.

        All blocks answer the same n, so guidance changes nothing; then one block, or all of them, answer n + d m. If the
        prediction moves by r_b or r, the weight of the block is <r_b, r> / <r, r>: w and 1 - w in u + w (c - u).
        """
        first = MadeUp(self.idle, lambda block: False)
        base = self._tried(first, step, evaluate)
        every = self._tried(MadeUp(self.idle, lambda block: True), step, evaluate) - base
        weights: dict[Block, float] = {}
        for block in first.blocks:
            moved = self._tried(MadeUp(self.idle, block.__eq__), step, evaluate) - base
            weights[block] = float((moved @ every) / (every @ every))
        if not torch.equal(self._tried(MadeUp(self.idle, lambda block: False), step, evaluate), base):
            raise _refusal("the pipeline remembers its earlier predictions")
        calls = []
        for number, (blocks, rowed, form) in enumerate(first.calls):
            away = frozenset(i for i in range(blocks) if weights[number, i] < -NOTICED)
            calls.append(Call(blocks, away, rowed, form))
        return calls, sum(map(abs, weights.values()))

    def _compare(self, calls: Sequence[Call], step: int, evaluate: Evaluate, tolerance: float) -> None:
        """Errors: UserError where blocks that are evaluated apart differ by more than this, relative to their size."""
        whole = evaluate(step).double().flatten()
        try:
            apart = self._tried(Halves(calls, 1), step, evaluate)
        except (IndexError, RuntimeError, ValueError) as error:
            raise _refusal("the network can't evaluate the two sides of guidance apart") from error
        if not (apart - whole).norm() <= tolerance * whole.norm():
            raise _refusal("the network says something else where it evaluates the two sides of guidance apart")


class MadeUp:
    """Answers that are made up, the same for all rows but for those of blocks that `moves`; made for one sample."""

    def __init__(self, idle: Idle, moves: Callable[[Block], bool]) -> None:
        self.idle, self.moves = idle, moves
        self.calls: list[tuple[int, dict[KeyPath, bool], Form | None]] = []

    @property
    def blocks(self) -> list[Block]:
        return [(number, i) for number, (blocks, _, _) in enumerate(self.calls) for i in range(blocks)]

    def __call__(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self.idle():
            answer = forward(*args, **kwargs)
        number, rows = len(self.calls), rows_of(answer)
        self.calls.append((rows, with_rows((args, kwargs), rows), Form.of(answer, rows)))
        sizes = [MOVE * self.moves((number, i)) for i in range(rows)]

        def fill(leaf: Any) -> Any:
            if not has(leaf, rows):
                return leaf
            answers = [_normal(row, 0) + size * _normal(row, 1) for row, size in zip(leaf, sizes, strict=True)]
            return torch.stack(answers) if isinstance(leaf, Tensor) else answers

        return tree_map(fill, answer, is_leaf=is_list)


class Halves:
    """The calls of an iteration for B samples, those blocks without a graph that guidance moves away from."""

    def __init__(self, calls: Sequence[Call], samples: int, against: Against | None = None) -> None:
        self.calls, self.samples, self.against = iter(calls), samples, against or Against()

    def __call__(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = next(self.calls, None)
        if call is None:
            raise _refusal("the pipeline calls its network more often for several samples than for one")
        if call.split:
            return self._apart(call, forward, (args, kwargs))
        if not call.away:
            return forward(*args, **kwargs)
        return self.against(call, lambda: forward(*args, **kwargs))

    def _apart(self, call: Call, forward: Callable[..., Any], given: Any) -> Any:
        away_rows = [row for block in sorted(call.away) for row in self._rows(block)]
        toward_rows = [row for block in range(call.blocks) if block not in call.away for row in self._rows(block)]
        total = len(toward_rows) + len(away_rows)
        toward = _evaluated(forward, taken(given, total, call.rowed, toward_rows), toward_rows)
        against = self.against(call, lambda: _evaluated(forward, taken(given, total, call.rowed, away_rows), away_rows))
        order = sorted(range(total), key=[*toward_rows, *away_rows].__getitem__)

        def join(a: Any, b: Any) -> Any:
            if not has(a, len(toward_rows)):
                return a
            return torch.cat([a, b])[order] if isinstance(a, Tensor) else [[*a, *b][i] for i in order]

        return tree_map(join, toward, against, is_leaf=is_list)

    def _rows(self, block: int) -> range:
        return range(block * self.samples, (block + 1) * self.samples)


def _evaluated(forward: Callable[..., Any], given: Any, rows: Sequence[int]) -> Any:
    args, kwargs = given
    answer = forward(*args, **kwargs)
    if rows_of(answer) != len(rows):
        raise _refusal("the network's arguments don't show which rows it evaluates")
    return answer


def _normal(like: Tensor, number: int) -> Tensor:
    """Noise of this shape; the tokens of a sequence are all alike, since a pipeline may take the last of so many."""
    shape = (1, like.shape[1]) if like.ndim == 2 else like.shape
    return torch.randn(shape, generator=torch_generator(("guidance", number))).expand(like.shape).to(like)


@contextmanager
def no_graph() -> Iterator[None]:
    """And without the cache of autocast, whose casts would lack a graph later (pytorch/pytorch#158232)."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def _refusal(reason: str) -> UserError:
    return UserError(f"{reason}, so no part of it can go without a graph; set policy.guidance_gradient to full")
