"""Win rate inside the group: how often a sample beats the others of its prompt (Pref-GRPO, arXiv 2508.20751).

Use it with arguments; 1/2 on average in every group.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.core.rounding import rounding
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.asking import ask
from flowgrpo.scoring.card import card
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.scoring.twins import inner, tiny

Judge = Callable[[Samples, Samples], Sequence[float]]
"""(a, b) -> for each pair 1 when a is better, 0 when b is, 1/2 for a tie."""


@tiny(inner("judge"))
@card(
    reads=None,
    range=(0.0, 1.0),
    better="beats more of the other samples of its group",
    licence="Apache-2.0, and its judge's",
    source="Pref-GRPO, arXiv 2508.20751",
    compares=True,
)
class WinRate:
    """`judge` names a pairwise judge, or with `margin` any pointwise reward: a wins when its score is higher by more.

    Every pair is judged in both orders, so a judge that prefers a place does no harm; a lone sample has 1/2.
    """

    def __init__(self, judge: str, margin: float | None = None, arguments: Mapping[str, Any] | None = None) -> None:
        reward = load_reward(judge, arguments)
        self.name, self.margin, self.judge = judge, margin, cast(Judge, reward)
        self.pointwise = reward

    def __call__(self, samples: Samples) -> list[float]:
        rates = np.full(len(samples), 0.5)
        for number in dict.fromkeys(samples.group):
            rows = [i for i, group in enumerate(samples.group) if group == number]
            if len(rows) > 1:
                rates[rows] = self._rates(samples.take(rows))
        return rates.tolist()

    def _rates(self, group: Samples) -> np.ndarray:
        """[K] for the K samples of one group."""
        first, second = map(list, zip(*combinations(range(len(group)), 2), strict=True))
        wins = self._verdicts(group, first, second)
        rates = np.zeros(len(group))
        np.add.at(rates, first, wins)
        np.add.at(rates, second, 1.0 - wins)
        return rates / (len(group) - 1)

    def _verdicts(self, group: Samples, first: list[int], second: list[int]) -> np.ndarray:
        """For each pair the share of the two orders that the first one wins."""
        if self.margin is not None:
            scores = ask(f"judge '{self.name}'", self.pointwise, group)
            if not np.isfinite(scores).all():
                raise UserError(f"judge '{self.name}' returned {scores[~np.isfinite(scores)][0]}, which wins against nothing")
            lead = scores[first] - scores[second]
            return np.where(np.abs(lead) <= max(self.margin, rounding(scores)), 0.5, lead > 0)
        a, b = group.take(first), group.take(second)
        there, back = (ask(f"judge '{self.name}'", self.judge, *pair) for pair in ((a, b), (b, a)))
        verdicts = np.concatenate([there, back])
        if not ((verdicts >= 0) & (verdicts <= 1)).all():
            raise UserError(f"judge '{self.name}' must return a number in [0, 1] for each of {len(first)} pairs")
        return (there + 1.0 - back) / 2.0
