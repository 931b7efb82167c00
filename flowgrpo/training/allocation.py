"""Where rewards differ, as earlier updates saw it, and how the next update spends its network evaluations for it.

P prompts of an update, S steps.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from flowgrpo.config.run import Config
from flowgrpo.core.keys import numpy_generator
from flowgrpo.sampling.plans import Spread
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.scored import Scored

MEMORY = 0.8
"""What an update leaves of the variances known before it."""
LEAST = 2
"""Samples of a prompt: one has nothing to compare with."""
CURIOSITY = 0.1
"""What a prompt's few samples are worth to allocation by intervals."""


class Allocation:
    """Draws the shapes of an update's groups. Running variances, by step and by prompt index, are all its state."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.steps: dict[int, float] = {}
        self.prompts: dict[int, float] = {}

    def shapes(self, update: int, prompts: Sequence[int]) -> list[Shape]:
        """[P] for the prompts with these indices. Their network evaluations are as many as before any reward was known."""
        groups = dict(zip(prompts, self._sizes(update, prompts), strict=True))
        return self.config.shapes(update, groups, self.spread)

    def further(
        self, prompts: Sequence[int], shapes: Sequence[Shape], earned: tuple[np.ndarray, np.ndarray], update: int, phase: int
    ) -> list[Shape | None]:
        """[P]: what each group of an update gets in this phase, 1, 2 ..; None where it gets nothing. After the last there are as
        many network evaluations as without phases. `prompts` are the indices of the groups' prompts, `shapes` what they have so
        far, and `earned` is what is trained on [P, N] and its rounding [P]."""
        rollout, granule = self.config.rollout, self.config.rollout.granule(self.config.policy.steps)
        members = [len({*shape.roots}) for shape in shapes]
        deviations = [
            sqrt(_pooled([_squares(total[list(shape.outcomes)], bound)]))
            for shape, total, bound in zip(shapes, *earned, strict=True)
        ]
        first = self._sizes(update, prompts)
        rest = (rollout.group_size * len(first) - sum(first)) // granule
        number = rest * phase // (rollout.phases - 1) - rest * (phase - 1) // (rollout.phases - 1)
        counts = granule * np.array(members)
        added = np.array(narrowed(np.array(deviations), counts, granule, number)) - counts
        sizes = {prompt: int(size) for prompt, size in zip(prompts, added, strict=True) if size}
        drawn = dict(zip(sizes, self.config.shapes(update, sizes, self.spread), strict=True))
        return [
            drawn[prompt].numbered_from(count) if prompt in drawn else None
            for prompt, count in zip(prompts, members, strict=True)
        ]

    @property
    def spread(self) -> Spread:
        steps = np.array([sqrt(self.steps.get(step, np.nan)) for step in range(self.config.policy.steps)])
        return Spread(steps, {prompt: sqrt(variance) for prompt, variance in self.prompts.items()})

    def see(self, scored: Scored) -> None:
        """Take in an update. Of a sample that is alone with its prompt there is nothing to learn."""
        trees = list(zip(scored.shapes, scored.trained_on, scored.rounding, strict=True))
        for (shape, total, bound), prompt in zip(trees, scored.prompts, strict=True):
            if len(shape.outcomes) > 1:
                self._take(self.prompts, prompt, _pooled([_squares(total[list(shape.outcomes)], bound)]))
        for step, variance in variances(trees).items():
            self._take(self.steps, step, variance)

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "prompts": self.prompts}

    def load(self, state: Mapping[str, Any]) -> None:
        self.steps, self.prompts = ({int(key): value for key, value in state[name].items()} for name in ("steps", "prompts"))

    @staticmethod
    def _take(known: dict[int, float], key: int, variance: float) -> None:
        known[key] = MEMORY * known[key] + (1.0 - MEMORY) * variance if key in known else variance

    def _sizes(self, update: int, prompts: Sequence[int]) -> list[int]:
        rollout, granule = self.config.rollout, self.config.rollout.granule(self.config.policy.steps)
        if rollout.allocate == "equal":
            return [rollout.group_size] * len(prompts)
        if rollout.phases > 1:
            return [granule * max(_least(granule), rollout.group_size // rollout.phases // granule)] * len(prompts)
        seen = [self.prompts[prompt] for prompt in prompts if prompt in self.prompts]
        deviations = np.sqrt([self.prompts.get(prompt, float(np.mean(seen)) if seen else 1.0) for prompt in prompts])
        if rollout.allocate == "interval":
            return widest_first(deviations, rollout.group_size, granule)
        offset = numpy_generator((self.config.seed, "sizes", update)).random()
        return sizes(deviations, rollout.group_size, granule, offset)


def sizes(deviations: np.ndarray, mean: int, granule: int, offset: float) -> list[int]:
    """[P] group sizes of this mean, multiples of `granule`: `LEAST` samples each, and the others in proportion to the deviations.

    They are rounded systematically: at the points `offset` + k, in [0, 1), of their running sum, so that each has its exact
    value on average (Neyman's allocation where samples cost the same).
    """
    least = _least(granule)
    rest = (mean // granule - least) * len(deviations)
    shares = deviations / deviations.sum() if deviations.any() else np.full(len(deviations), 1.0 / len(deviations))
    ends = np.floor(np.cumsum(shares)[:-1] * rest + offset)
    return [granule * (least + int(extra)) for extra in np.diff([0.0, *ends, float(rest)])]


def widest_first(deviations: np.ndarray, mean: int, granule: int) -> list[int]:
    """[P] group sizes of this mean, multiples of `granule`: `LEAST` samples each, and one granule after the other where it is
    worth most (XRPO, arXiv 2510.06672).
    """
    least = _least(granule)
    counts = np.full(len(deviations), least * granule)
    return narrowed(deviations, counts, granule, (mean // granule - least) * len(deviations))


def narrowed(deviations: np.ndarray, counts: np.ndarray, granule: int, number: int) -> list[int]:
    """[P] group sizes: `counts` [P], and `number` granules more, one after the other where it is worth most.

    Worth is what it takes off the half width t s / sqrt(n) of the interval of the prompt's mean reward, at 95 %, and `CURIOSITY`
    sqrt(log(1 + N) / n) in units of the mean deviation, N the samples so far. The paper takes the deviations s from samples of
    the same update (`rollout.phases`), and does not say how curious it is.
    """
    counts, bonus = counts.copy(), CURIOSITY * (deviations.mean() or 1.0)
    for _ in range(number):
        taken_off = _half_width(deviations, counts) - _half_width(deviations, counts + granule)
        counts[np.argmax(taken_off + bonus * np.sqrt(np.log1p(counts.sum()) / counts))] += granule
    return counts.tolist()


def _least(granule: int) -> int:
    """The granules that hold `LEAST` samples."""
    return -(-LEAST // granule)


def _half_width(deviations: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return stdtrit(counts - 1, 0.975) * deviations / np.sqrt(counts)


def variances(trees: Iterable[tuple[Shape, np.ndarray, float]]) -> dict[int, float]:
    """By step the variance of the rewards among continuations of one state that part there, pooled over states.

    Of trees with rewards by node; a tree's rewards that differ by no more than the number beside them are equal.
    """
    squares: dict[int, list[tuple[float, int]]] = {}
    for shape, total, bound in trees:
        for step, values in _forks(shape, total):
            squares.setdefault(step, []).append(_squares(values, bound))
    return {step: _pooled(rows) for step, rows in squares.items()}


def _pooled(rows: Sequence[tuple[float, int]]) -> float:
    return sum(square for square, _ in rows) / sum(freedom for _, freedom in rows)


def _forks(shape: Shape, total: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(step, the mean rewards below each child) of every state with several trained children."""
    for children in shape.children:
        trained = [child for child in children if shape.nodes[child].trained]
        if len(trained) > 1:
            yield shape.nodes[trained[0]].step - 1, np.array([total[list(shape.outcomes_below[i])].mean() for i in trained])


def _squares(values: np.ndarray, bound: float) -> tuple[float, int]:
    """(sum of squares about the mean, degrees of freedom); values that differ by rounding alone are equal."""
    return float(np.var(values) * len(values)) if np.ptp(values) > bound else 0.0, len(values) - 1
