"""Recipes against one another: what each gained on held-out prompts, at the end and at equal cost, over its seeds.

S seeds of a recipe, N held-out prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import Interval, percentiles, resampled_means, t_interval
from flowgrpo.core.rounding import gains as gains_of
from flowgrpo.core.rounding import rounding
from flowgrpo.runs.curve import EVALUATIONS, HELD_OUT, SECONDS, Curve, curve_of, find_runs

Word = Literal["better", "worse", "no difference shown"]
NOT_TRAINING = {"seed", "output", "tracker", "checkpoints", "evaluation"}
ROUNDING = 0.02


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `ci95` is None where one seed gives no interval."""

    mean: float
    ci95: Interval | None


@dataclass(frozen=True)
class Difference(Estimate):
    """A recipe's gain minus the baseline's."""

    word: Word


@dataclass(frozen=True)
class Seed:
    """One run; `curve` [K, 3] as in `runs.curve.Curve`."""

    run: str
    seed: int
    updates: int
    finished: bool
    curve: list[list[float]]


@dataclass(frozen=True)
class Recipe:
    """Costs are means over the finished seeds, or over all if none is. What needs a finished seed is None without one."""

    recipe: str
    seeds: list[Seed]
    updates: float
    network_evaluations: float
    seconds: float
    before: float
    after: float | None
    gain: Estimate | None
    gain_at_equal_network_evaluations: Estimate
    gain_at_equal_seconds: Estimate
    against_baseline: Difference | None
    gain_by_tag: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """The first recipe is the baseline; `rate` says that every score is 0 or 1, so that means are shares of the prompts."""

    metric: str
    prompts: int
    rate: bool
    equal_network_evaluations: float
    equal_seconds: float
    recipes: list[Recipe]


def compare(sources: Sequence[str | Path]) -> Comparison:
    """Compare run folders, or folders of them."""
    runs = [curve_of(run) for run in find_runs(sources)]
    if not runs:
        raise UserError("there is no run to compare; name run folders or folders of them")
    _check_same_exam(runs)
    by_recipe = {name: [run for run in runs if run.recipe == name] for name in dict.fromkeys(run.recipe for run in runs)}
    for seeds in by_recipe.values():
        seeds.sort(key=lambda run: run.seed)
        _check_seeds(seeds)
    reached = np.min([run.points[-1] for run in runs], axis=0)
    baseline = by_recipe[runs[0].recipe]
    return Comparison(
        metric=runs[0].metric,
        prompts=len(runs[0].before),
        rate=all(np.isin(scores, (0, 1)).all() for run in runs for scores in _scores(run)),
        equal_network_evaluations=float(reached[EVALUATIONS]),
        equal_seconds=float(reached[SECONDS]),
        recipes=[_recipe(seeds, reached, baseline if i else None) for i, seeds in enumerate(by_recipe.values())],
    )


def _scores(run: Curve) -> list[np.ndarray]:
    return [run.before] if run.after is None else [run.before, run.after]


def _check_same_exam(runs: list[Curve]) -> None:
    """Same metric, same prompts, same scores before training.

    Rounding on another machine may change a few: a mean change of `ROUNDING` standard deviations passes.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.metric != first.metric:
            raise UserError(f"{run.path} reports '{run.metric}', {first.path} '{first.metric}'; compare runs of one metric")
        if len(run.before) != len(first.before):
            counts = f"{len(run.before)} held-out prompts, {first.path} on {len(first.before)}"
            raise UserError(f"{run.path} was evaluated on {counts}; give them the same evaluation.prompts and evaluation.limit")
        if np.abs(run.before - first.before).mean() > max(ROUNDING * first.before.std(), rounding(first.before)):
            raise UserError(
                f"{run.path} scored {run.before.mean():.4g} before training, {first.path} {first.before.mean():.4g}, prompt by "
                "prompt not the same; compare runs of one model with one `evaluation` section"
            )


def _check_seeds(runs: list[Curve]) -> None:
    """Runs of one name must differ in the seed, and in nothing else that matters to training."""
    first = runs[0]
    for previous, run in pairwise(runs):
        if run.seed == previous.seed:
            raise UserError(f"{previous.path} and {run.path} are the same recipe and seed; leave one of them out")
        if differ := sorted(k for k in _training(run) | _training(first) if _training(run).get(k) != _training(first).get(k)):
            raise UserError(
                f"{first.path} and {run.path} differ in {', '.join(differ)}, so they are not seeds of one recipe; "
                "rename one folder to OTHER-NAME-yyyymmdd-hhmmss"
            )


def _training(run: Curve) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key not in NOT_TRAINING}


def _recipe(runs: list[Curve], reached: np.ndarray, baseline: list[Curve] | None) -> Recipe:
    """`reached` [3] is the cost that every run reached; the baseline itself has none to stand against."""
    finished = [run for run in runs if run.after is not None]
    updates = np.mean([run.updates for run in finished or runs])
    costs = np.mean([run.points[-1] for run in finished or runs], axis=0)
    gains = _gains(runs)
    return Recipe(
        recipe=runs[0].recipe,
        seeds=[Seed(str(run.path), run.seed, run.updates, run.after is not None, run.points.tolist()) for run in runs],
        updates=float(updates),
        network_evaluations=float(costs[EVALUATIONS]),
        seconds=float(costs[SECONDS]),
        before=float(np.mean([run.before.mean() for run in runs])),
        after=float(costs[HELD_OUT]) if finished else None,
        gain=Estimate(float(gains.mean()), percentiles(_resampled(runs))) if finished else None,
        gain_at_equal_network_evaluations=_at(runs, EVALUATIONS, reached),
        gain_at_equal_seconds=_at(runs, SECONDS, reached),
        against_baseline=_difference(runs, baseline) if baseline and finished and len(_gains(baseline)) else None,
        gain_by_tag=_by_tag(finished),
    )


def _at(runs: list[Curve], column: int, reached: np.ndarray) -> Estimate:
    gains = np.array([run.gain_at(column, reached[column]) for run in runs])
    return Estimate(float(gains.mean()), t_interval(gains))


def _difference(runs: list[Curve], baseline: list[Curve]) -> Difference:
    low, high = percentiles(_resampled(runs) - _resampled(baseline))
    word: Word = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    return Difference(float(_gains(runs).mean() - _gains(baseline).mean()), (low, high), word)


def _gains(runs: list[Curve]) -> np.ndarray:
    """[S, N] of the finished seeds."""
    return np.array([gains_of(run.after, run.before) for run in runs if run.after is not None])


def _resampled(runs: list[Curve]) -> np.ndarray:
    return resampled_means(_gains(runs), runs[0].recipe)


def _by_tag(finished: list[Curve]) -> dict[str, float]:
    tags = dict.fromkeys(tag for run in finished for tag in run.by_tag)
    return {tag: float(np.mean([run.by_tag[tag]["after"] - run.by_tag[tag]["before"] for run in finished])) for tag in tags}
