"""Features of the states that a pipeline's denoisers evaluate, from the very calls that make a prediction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.policies._pooled import LastBlock, narrowed, pooled
from flowgrpo.policies.diffusers._blocks import rows_of
from flowgrpo.policies.diffusers._idle import Idle


class Features:
    """Denoisers that are watched on demand; what rests or is rehearsed is not seen. Shapes as in `_pooled`."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.seen: list[Tensor] | None = None
        self.last: LastBlock | None = None
        self.idle: Idle | None = None
        for module in modules.values():
            module.forward = self._shadow(module.forward)

    def require(self) -> None:
        """Errors: UserError where there is nothing to watch."""
        self.last = self.last or LastBlock(self.modules.values())

    @contextmanager
    def __call__(self, idle: Idle) -> Iterator[list[Tensor]]:
        """The pooled features [R, F] of each evaluation inside."""
        self.require()
        assert self.last is not None
        seen: list[Tensor] = []
        self.seen, self.idle = seen, idle
        try:
            with self.last():
                yield seen
        finally:
            self.seen = None

    def _shadow(self, forward: Any) -> Any:
        @wraps(forward)
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            answer = forward(*args, **kwargs)
            if self.seen is not None and self.last and self.idle and not (self.idle.resting or self.idle.rehearsing):
                self.seen.append(pooled(self.last.taken(), rows_of(answer)))
            return answer

        return evaluate


def by_state(evaluations: Sequence[Tensor], calls: Sequence[int]) -> Tensor:
    """[B, F] of all evaluations that pipeline calls of so many samples each have made, as many in each call; all rows of a state
    side by side. Errors: UserError where that is not how many there are."""
    each, rest = divmod(len(evaluations), len(calls))
    counts = [sum(map(len, evaluations[i * each : (i + 1) * each])) for i in range(len(calls))]
    if not each or rest or any(count % samples for count, samples in zip(counts, calls, strict=True)):
        raise UserError("completion 'learned' can't tell which evaluations are of which state; take another one")
    parts = []
    for i, samples in enumerate(calls):
        rows = torch.cat(list(evaluations[i * each : (i + 1) * each]))
        parts.append(rows.reshape(-1, samples, rows.shape[1]).movedim(0, 1).flatten(1))
    return narrowed(torch.cat(parts))
