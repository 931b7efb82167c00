"""Rewards that score a block of samples while the next one is made: served ones, and those that say `beside`."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.scorer import Scorer

Scores = dict[str, np.ndarray]


class Beside:
    """One worker, so blocks are scored in the order in which they are made, unless processes elsewhere score several at once.
    As a context: leaving it with an error drops the blocks that have not been begun.

    The first block is scored while nothing else runs: a reward may load a model then, and it is seen whether it draws from
    torch's global random state, which belongs to the rollout.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.labels = [label for label in scorer.rewards if label in scorer.served or label in scorer.threaded]
        self.worker = ThreadPoolExecutor(1 if scorer.threaded else scorer.at_once)
        self.waiting: list[Future[Scores]] = []
        self.seen = not scorer.threaded

    def __enter__(self) -> None:
        self.waiting = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for future in self.waiting:
            future.cancel()

    def scores(self, samples: Samples) -> Callable[[], Scores]:
        """The way to the scores of these samples. Errors: that of an earlier block, as soon as it is known."""
        for future in self.waiting:
            if future.done():
                future.result()
        if self.scorer.looks:
            _ = samples.decoded
        if not self.labels:
            return partial(self.scorer, samples)
        with nullcontext() if self.seen else drawing_nothing(self.scorer.threaded):
            future = self.worker.submit(self.scorer, samples, self.labels)
            self.waiting.append(future)
            if not self.seen:
                future.result()
        self.seen = True
        return lambda: self._joined(future.result(), samples)

    def _joined(self, scores: Scores, samples: Samples) -> Scores:
        """With those of the other rewards, which score now, in this thread."""
        rest = [label for label in self.scorer.rewards if label not in scores]
        scores = scores | (self.scorer(samples, rest) if rest else {})
        return {label: scores[label] for label in self.scorer.rewards}


class Watched:
    """Stands for torch's generator where its functions look for it, and notes that one did."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.used = generator, False

    def __getattr__(self, name: str) -> Any:
        self.used = True
        return getattr(self.generator, name)


@contextmanager
def drawing_nothing(labels: list[str]) -> Iterator[None]:
    """Errors: UserError where what runs inside seeds, reads, sets or draws from torch's global random state."""
    generator = torch.random.default_generator
    watched, before = Watched(generator), _states(generator)
    torch.random.default_generator = watched  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.random.default_generator = generator
    if watched.used or any(not torch.equal(a, b) for a, b in zip(before, _states(generator), strict=True)):
        raise UserError(
            f"reward {' or '.join(map(repr, labels))} uses torch's global random state, which belongs to the rollout beside it; "
            "give it a torch.Generator of its own, or set its 'beside' to false"
        )


def _states(generator: torch.Generator) -> list[torch.Tensor]:
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [generator.get_state(), *on_gpu]
