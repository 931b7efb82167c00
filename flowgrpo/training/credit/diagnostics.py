"""What the noise of a step changes, what a gain is worth there, and how well cheap completions stand in for exact ones.

P prompts, G group, C trained transitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

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
from flowgrpo.sampling.kernels import GaussianKernel, Kernel
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.plans import Plan
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.allocation import variances
from flowgrpo.training.collect import Rollouts, scored_trees

EXACT, ONE_STEP = Deterministic(), Deterministic(steps=1)


def candidates(kernel: Kernel) -> dict[str, Completion]:
    """Ways to complete what this kernel has left, by name."""
    own = kernel.deterministic().type
    few = {f"{own}, {count} step{'s' if count > 1 else ''}": Deterministic(steps=count) for count in (1, 2, 3)}
    solver = DpmPp2m() if isinstance(kernel, GaussianKernel) else None
    solved = {f"dpmpp_2m, {count} steps": Deterministic(steps=count, kernel=solver) for count in (2, 3)} if solver else {}
    return {"exact": EXACT, **few, **solved, "exact, every 2nd state": Deterministic(every=2)}


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
    """A step. `deviation` is that of the final reward within a state, where this step alone is random from there on; None for a
    last step, from which no comb continues.

    Within groups of trajectories that are random at every step: the `correlation` of the value after the step with that before,
    the `baseline` b* of credit `gain` with the least variance, and the variance of the final reward over that of the gain: how
    many times fewer samples the gain needs for the same signal.
    """

    step: int
    deviation: float | None
    correlation: float
    baseline: float
    variance_ratio: float
    prediction: float


@dataclass(frozen=True)
class Diagnostics:
    """Of the model, rewards and kernel of a config, whatever its plan. Every tree of a prompt has the same noise."""

    config: Config
    policy: Policy
    prompts: Sequence[Prompt]
    scorer: Scorer

    def complaint(self) -> str | None:
        """Why there is nothing to be found out, or None."""
        for plan in (self._trajectories(EXACT), self._teeth()):
            if complaint := plan.complaint(self.config.policy.steps, self.config.rollout.group_size):
                return complaint
            if complaint := self.config.policy.refusal(shape := self._shape(plan)):
                return complaint
            if plan.completion and (complaint := Gain().complaint(shape)):
                return complaint
        return None

    def steps(self) -> list[StepWorth]:
        """Errors: UserError where no step changes the reward."""
        teeth = variances((tree.shape, tree.rewards, tree.rounding) for tree in self._trees(self._teeth()))
        deviations = {step: sqrt(variance) for step, variance in teeth.items()}
        trees = self._trees(self._trajectories(EXACT))
        exact, least = self._exact(trees)
        after, final = _credit(Gain(baseline=0.0), trees), _credit(Terminal(), trees)
        predicted = _credit(Gain(baseline=0.0), self._trees(self._trajectories(ONE_STEP)))
        steps = _steps(trees[0].shape)
        columns = [_centred(values, steps) for values in (after, after - exact, exact, final, predicted)]
        return [
            worth(int(step), deviations.get(int(step)), least, *(column[:, steps == step].ravel() for column in columns))
            for step in np.unique(steps)
        ]

    def completions(self) -> list[Quality]:
        """Every candidate completes the states of the very same trajectories."""
        ways = candidates(self.config.rollout.plan.kernel)
        trees = {name: self._trees(self._trajectories(completion)) for name, completion in ways.items()}
        exact, least = self._exact(trees["exact"])
        return [_quality(name, completed, exact, least, self.config.rollout.group_size) for name, completed in trees.items()]

    def _exact(self, trees: list[ScoredTree]) -> tuple[np.ndarray, float]:
        """([P, C] gains, how far apart equal rewards may be)."""
        gains, least = _credit(Gain(), trees), max(tree.rounding for tree in trees)
        if np.abs(gains).max() <= least:
            raise UserError("no transition changed the reward; give more --prompts, a stronger noise level or a finer reward")
        return gains, least

    def _trajectories(self, completion: Completion) -> Plan:
        plan = self.config.rollout.plan
        return AllSteps(kernel=plan.kernel, shared_start=plan.shared_start, completion=completion)

    def _teeth(self) -> Plan:
        return Comb(kernel=self.config.rollout.plan.kernel, teeth=self.config.rollout.group_size)

    def _with(self, plan: Plan) -> Config:
        rollout = self.config.rollout.model_copy(update={"plan": plan, "allocate": "equal"})
        return self.config.model_copy(update={"rollout": rollout})

    def _shape(self, plan: Plan) -> Shape:
        return self._with(plan).shape()

    def _trees(self, plan: Plan) -> list[ScoredTree]:
        """[P]"""
        config = self._with(plan)
        key, shapes = (config.seed, "completions"), [config.shape()] * len(self.prompts)
        return scored_trees(Rollouts.of(config, self.policy), self.scorer, config.rewards, self.prompts, shapes, key)[0]


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


def worth(
    step: int,
    deviation: float | None,
    least: float,
    after: np.ndarray,
    before: np.ndarray,
    gain: np.ndarray,
    final: np.ndarray,
    predicted: np.ndarray,
) -> StepWorth:
    """`least` is how far apart values may be that are equal but for rounding."""
    slope = float((after * before).mean() / before.var()) if np.ptp(before) > least else 0.0
    ratio = float(final.var() / gain.var()) if np.ptp(gain) > least else np.inf
    kept, foreseen = _correlation(after, before, least), _correlation(predicted, after, least)
    return StepWorth(step, deviation, kept, min(max(slope, 0.0), 1.0), ratio, foreseen)


def _steps(shape: Shape) -> np.ndarray:
    """[C]: the steps that the trained transitions make, from 0."""
    return np.array([shape.nodes[i].step - 1 for i in shape.trained])


def _credit(rule: Credit, trees: list[ScoredTree]) -> np.ndarray:
    """[P, C]"""
    return np.stack([rule.credited(tree).value[list(tree.shape.trained)] for tree in trees])


def _centred(gains: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """[P, C] minus the mean over the group's transitions at the same step, which is what an advantage sees."""
    out = gains.copy()
    for step in np.unique(steps):
        out[:, steps == step] -= gains[:, steps == step].mean(1, keepdims=True)
    return out


def _correlation(a: np.ndarray, b: np.ndarray, least: float) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if min(np.ptp(a), np.ptp(b)) > least else 0.0
