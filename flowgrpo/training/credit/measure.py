"""How much of an update's gradient points the right way, for each scheme and for what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import Interval, percentiles
from flowgrpo.core.plugins import nearest
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.calibration import calibrate, with_levels
from flowgrpo.training.credit.estimate import Resampled, moments, products_of, reliability, resampled
from flowgrpo.training.credit.gradients import Gradients, Measurer, batches_of
from flowgrpo.training.credit.point import Point
from flowgrpo.training.credit.schemes import Scheme
from flowgrpo.training.credit.sketch import Sketch

MILLION = 1e6


@dataclass(frozen=True)
class Row:
    """A scheme. Costs are of an optimizer step: network evaluations and seconds.

    `per_million` is the squared cosine with the reference at equal evaluations, per million of these, `per_second` the same
    per second; each with its interval. `cosine` and `error` (relative, of the gradient) are at equal evaluations, `factor` is
    `per_million` over the first scheme's, `agreement` the cosine of the scheme's expected gradient with the reference.
    """

    name: str
    evaluations: float
    seconds: float
    per_million: float
    per_million_interval: Interval
    per_second: float
    per_second_interval: Interval
    cosine: float
    cosine_interval: Interval
    error: float
    factor: float
    factor_interval: Interval
    factor_per_second: float
    agreement: float
    silent: float
    weight: float


@dataclass(frozen=True)
class Measured:
    rows: list[Row]
    updates: int
    prompts: int
    equal_evaluations: float
    reference: str
    point: str


def measure(
    schemes: Sequence[Scheme],
    policies: Sequence[Policy],
    prompts: Sequence[Prompt],
    scorer: Scorer,
    updates: int,
    point: Point,
    reference: str | None = None,
) -> Measured:
    """`updates` independent updates of each scheme; the schemes' `policies` are at the same weights.

    `reference` names the scheme whose mean gradient is the right way; None: the mean of all. Errors: UserError.
    """
    names = [scheme.name for scheme in schemes]
    if reference is not None and reference not in names:
        raise UserError(f"--reference '{reference}' is not one of the schemes ({nearest(reference, names)})")
    found = gradients(schemes, policies, prompts, scorer, updates, point)
    products = products_of(found)
    weights, now = np.eye(len(names))[names.index(reference or names[0])], moments(products, np.ones(len(products.scheme)))
    if reference is None:
        weights = reliability(products, now)
    if not weights.any():
        raise UserError("no scheme has a signal above its noise; give more --updates")
    equal = float(products.cost[0])
    result = resampled(products, weights, equal, schemes[0].config.seed)
    lengths = weights * np.sqrt(np.maximum(np.diag(now.means), 0))
    rows = [_row(i, names[i], one, result, equal, float(lengths[i] / lengths.sum())) for i, one in enumerate(found)]
    said = f"the mean gradient of {reference}" if reference else "the mean gradient of all schemes, weighted by reliability"
    return Measured(rows, updates, len({*products.prompt.tolist()}), equal, said, point.name)


def gradients(
    schemes: Sequence[Scheme], policies: Sequence[Policy], prompts: Sequence[Prompt], scorer: Scorer, updates: int, point: Point
) -> list[Gradients]:
    """The schemes take turns, so that whoever stops early has as many updates of each."""
    if updates < 2:
        raise UserError("one update says nothing of its own noise; give --updates 2 or more")
    most = max(scheme.config.rollout.prompts_per_update for scheme in schemes)
    batches = batches_of(prompts, updates, most, (schemes[0].config.seed, "credit", "prompts"))
    length = sum(p.numel() for p in policies[0].trainable().values())
    sketch = Sketch(length, policies[0].device)
    measurers = [
        Measurer(_calibrated(scheme, policy, prompts, scorer), policy, scorer, sketch, point)
        for scheme, policy in zip(schemes, policies, strict=True)
    ]
    for number, batch in enumerate(bar(batches, "updates")):
        for measurer in measurers:
            measurer(batch, number)
    return [measurer.found for measurer in measurers]


def _calibrated(scheme: Scheme, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer) -> Config:
    config = scheme.config
    if config.calibration is None:
        return config
    return with_levels(config, calibrate(config, policy, prompts, scorer, Processes.alone()).levels)


def _row(i: int, name: str, one: Gradients, result: Resampled, equal: float, weight: float) -> Row:
    figures, evaluations, seconds = result.figures, one.evaluations / one.steps, one.seconds / one.steps
    per_million, per_second = MILLION / equal, evaluations / equal / seconds
    interval = percentiles(result.squared[:, i])
    factor, factors = result.ratio(i, 0)
    return Row(
        name,
        evaluations,
        seconds,
        float(figures.squared[i]) * per_million,
        (interval[0] * per_million, interval[1] * per_million),
        float(figures.squared[i]) * per_second,
        (interval[0] * per_second, interval[1] * per_second),
        float(figures.cosine[i]),
        percentiles(result.cosine[:, i]),
        float(figures.error[i]),
        factor,
        factors,
        factor,
        float(figures.agreement[i]),
        one.silent / len(one.vectors),
        weight,
    )
