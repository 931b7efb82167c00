"""What completions are worth for a model, a reward and a noise level: cheap ones against exact ones, gains against final rewards.

P prompts, G group, C trained transitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.objective.credit import Credit, ScoredTree
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.policies.protocol import Policy
from flowgrpo.sampling.completion import Completion
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.collect import Rollouts, scored_trees

EXACT = Deterministic()
CANDIDATES = {
    "exact": EXACT,
    **{f"ode, {n} step{'s' if n > 1 else ''}": Deterministic(steps=n) for n in (1, 2, 3)},
    **{f"dpmpp_2m, {n} steps": Deterministic(steps=n, kernel=DpmPp2m()) for n in (2, 3)},
    "exact, every 2nd state": Deterministic(every=2),
}


@dataclass(frozen=True)
class Quality:
    """`gains` and `centred`: correlations with the exact gains, raw and after removing the mean of each prompt's step.

    Costs are per sample (member of a group): network evaluations and scored pictures.
    """

    completion: str
    gains: float
    centred: float
    network_evaluations: float
    pictures: float


@dataclass(frozen=True)
class StepWorth:
    """The transitions of one step, exactly completed, within their groups.

    `correlation` of the value after with the value before it, the `baseline` of credit `gain` with the least variance, and the
    variance of the final reward over that of the gain: how many times fewer samples the gain needs for the same signal.
    """

    step: int
    correlation: float
    baseline: float
    variance_ratio: float


def measure(config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer) -> tuple[list[Quality], list[StepWorth]]:
    """Every candidate completes the states of the very same trajectories: same prompts, same noise."""
    trees = {name: _trees(config, policy, prompts, scorer, completion) for name, completion in CANDIDATES.items()}
    steps = _steps(trees["exact"][0].shape)
    exact, least = _credit(Gain(), trees["exact"]), max(tree.rounding for tree in trees["exact"])
    if np.abs(exact).max() <= least:
        raise UserError("no transition changed the reward; give more --prompts, a stronger noise level or a finer reward")
    qualities = [_quality(name, completed, exact, least, config.rollout.group_size) for name, completed in trees.items()]
    after, final = _credit(Gain(baseline=0.0), trees["exact"]), _credit(Terminal(), trees["exact"])
    centred = [_centred(values, steps) for values in (after, after - exact, exact, final)]
    return qualities, [_worth(step, least, *(x[:, steps == step].ravel() for x in centred)) for step in np.unique(steps)]


def _quality(name: str, trees: list[ScoredTree], exact: np.ndarray, least: float, group_size: int) -> Quality:
    shape, gains = trees[0].shape, _credit(Gain(), trees)
    steps = _steps(shape)
    return Quality(
        name,
        _correlation(gains, exact, least),
        _correlation(_centred(gains, steps), _centred(exact, steps), least),
        shape.network_evaluations / group_size,
        len(shape.leaves) / group_size,
    )


def _worth(step: int, least: float, after: np.ndarray, before: np.ndarray, gain: np.ndarray, final: np.ndarray) -> StepWorth:
    """`least` is how far apart values may be that are equal but for rounding."""
    slope = float((after * before).mean() / before.var()) if np.ptp(before) > least else 0.0
    ratio = float(final.var() / gain.var()) if np.ptp(gain) > least else np.inf
    return StepWorth(int(step), _correlation(after, before, least), min(max(slope, 0.0), 1.0), ratio)


def _steps(shape: Shape) -> np.ndarray:
    """[C]: the steps that the trained transitions make, from 0."""
    return np.array([shape.nodes[i].step - 1 for i in shape.trained])


def _credit(rule: Credit, trees: list[ScoredTree]) -> np.ndarray:
    """[P, C]"""
    return np.stack([rule.credited(tree).value[list(tree.shape.trained)] for tree in trees])


def _trees(config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer, completion: Completion) -> list[ScoredTree]:
    """P trees under a completion."""
    shape = config.with_plan(completion=completion).shape()
    if complaint := Gain().complaint(shape):
        raise UserError(f"this plan has no gains to measure: {complaint}")
    key, shapes = (config.seed, "completions"), [shape] * len(prompts)
    return scored_trees(Rollouts.of(config, policy), scorer, config.rewards, prompts, shapes, key)[0]


def _centred(gains: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """[P, C] minus the mean over the group's transitions at the same step, which is what an advantage sees."""
    out = gains.copy()
    for step in np.unique(steps):
        out[:, steps == step] -= gains[:, steps == step].mean(1, keepdims=True)
    return out


def _correlation(a: np.ndarray, b: np.ndarray, least: float) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if min(np.ptp(a), np.ptp(b)) > least else 0.0
