"""What was measured, and what follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite

from flowgrpo.core.intervals import Interval
from flowgrpo.training.credit.diagnostics import Quality, StepWorth
from flowgrpo.training.credit.schemes import LeftOut
from flowgrpo.training.credit.slope import Slope

MOST = 100
"""More than so many times as many updates are not worth naming a number."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    interval: Interval

    def times(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, (self.interval[0] * factor, self.interval[1] * factor))


@dataclass(frozen=True)
class Row:
    """A scheme. `evaluations` of the network and `seconds` are those of an optimizer step: rollouts, rewards, gradient.

    `per_million`: the squared cosine of a step's gradient with the reference, per million network evaluations, negative where
    it points the wrong way; `per_second` the same per second. `cosine`, and `error` (how far a step is from the scheme's own
    mean, over the length of that), are at equal evaluations. `factor`: how many of the baseline's evaluations one of these is
    worth; `factor_per_second` the same for seconds. `agreement`: the cosine of the scheme's mean gradient with the reference,
    both without noise; None where there is no signal.
    `share`: of the reference. `silent`: of the groups, those that train nothing. `needed`: the updates that would tell it from
    the baseline, over those that were made. `along` and `along_scaled`: the check, along the mean gradient, and along the step
    that AdamW makes of it; `found` and `found_scaled`: the factors that follow from it, of the reward itself instead of a
    reference.
    """

    name: str
    steps: int
    evaluations: float
    seconds: float
    reward: float
    per_million: Estimate
    per_second: Estimate
    cosine: Estimate
    error: Estimate
    factor: Estimate
    factor_per_second: Estimate
    agreement: float | None
    share: float
    silent: float
    needed: float
    along: Slope | None = None
    along_scaled: Slope | None = None
    found: Estimate | None = None
    found_scaled: Estimate | None = None


@dataclass(frozen=True)
class Credit:
    """What schemes of credit are worth on a model and reward, at one point of its training.

    `rows`: the schemes; `baseline` is one of them, and cosines are at as many network `evaluations` as its optimizer step has.
    `sampler`: what the check evaluates, with `check_prompts` prompts that no gradient saw, by moving the weights by `length`
    along gradients, or by `scaled_length` as AdamW scales them.
    `ranks`: the rank correlation of `factor` with what the check found, along gradients, and as AdamW scales them.
    """

    model: str
    point: str
    rows: list[Row]
    left_out: list[LeftOut]
    steps: list[StepWorth]
    completions: list[Quality]
    notes: list[str]
    baseline: str
    reference: str
    updates: int
    prompts: int
    check_prompts: int
    evaluations: float
    sampler: str
    length: float
    scaled_length: float
    sketch_error: float
    ranks: float | None
    ranks_scaled: float | None
    seconds: float

    @property
    def best(self) -> Row:
        return max(self.rows, key=lambda row: row.per_million.value)

    @property
    def sentence(self) -> str:
        """What to use, or that nothing is told apart yet. The check of AdamW's steps comes first: it is of the reward itself."""
        if proven := [row for row in self.rows if row.found_scaled and row.found_scaled.interval[0] > 1.0]:
            chosen = max(proven, key=lambda row: row.found_scaled.value if row.found_scaled else 0.0)
            assert chosen.found_scaled
            return (
                f"For {self.model} and its reward use {chosen.name}: expected factor {_over(chosen.found_scaled)} over "
                f"{self.baseline}, by the check of AdamW's steps (by cosines {said(chosen.factor)})."
            )
        best = self.best
        if not best.per_million.interval[0] > 0:
            return f"Nothing is told apart at this size: no scheme's signal is above its noise; {self._more(best)}."
        if best.name == self.baseline:
            return self._nothing_better()
        if best.factor.interval[0] > 1.0:
            return f"For {self.model} and its reward use {best.name}: expected factor {_over(best.factor)} over {self.baseline}."
        return (
            f"Nothing is told apart from {self.baseline} at this size: {best.name} has the highest factor, {said(best.factor)}; "
            f"{self._more(best)}."
        )

    def _nothing_better(self) -> str:
        others = [row for row in self.rows if row.name != self.baseline]
        if not others:
            return f"{self.baseline} alone was measured; name a second scheme to compare it with."
        second = max(others, key=lambda row: row.factor.value)
        closest = f"{second.name} comes closest, with a factor of {said(second.factor)}"
        if second.factor.interval[1] < 1.0:
            return f"For {self.model} and its reward use {self.baseline}: {closest}."
        return f"Nothing is shown to be better than {self.baseline} at this size: {closest}; {self._more(second)}."

    def _more(self, row: Row) -> str:
        if row.needed > MOST:
            return f"that would take more than {MOST} times as many updates"
        return f"about {max(1, ceil(self.updates * (row.needed - 1.0)))} more updates would tell"

    @property
    def verdict(self) -> str:
        """How far the check agrees, where it tells schemes apart at all."""
        if self.ranks is None:
            return ""
        others = [one for row in self.rows if row.name != self.baseline for one in (row.found, row.found_scaled) if one]
        if not any(one.interval[1] < 1.0 or one.interval[0] > 1.0 for one in others):
            return f"The check tells no scheme apart from {self.baseline}."
        return f"The rank correlation of the check's factors with those by cosines is {number(self.ranks)}{self._scaled()}."

    def _scaled(self) -> str:
        return "" if self.ranks_scaled is None else f", {number(self.ranks_scaled)} as AdamW scales"


def _over(factor: Estimate) -> str:
    """Where the baseline's own signal may be nothing, a factor has a lower end only."""
    return said(factor) if isfinite(factor.interval[1]) else f"above {number(factor.interval[0])}"


def said(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{number(estimate.value)} [{number(low)}, {number(high)}]"


def number(value: float) -> str:
    return f"{value:.3g}" if isfinite(value) else "∞" if value == inf else "?"


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's, or None of fewer than three."""
    from scipy import stats

    return float(stats.spearmanr(one, other).statistic) if len(one) > 2 else None
