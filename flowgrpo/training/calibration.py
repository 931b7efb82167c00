"""Exploration calibrated before training (DenseGRPO, arXiv 2601.20218): as much noise per step as the reward can bear.

P prompts, N nodes, S steps.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.config.sections import CalibrationConfig
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import spread
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.policies.protocol import Policy
from flowgrpo.sampling.kernels.calibrated import Calibrated
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.collect import Rollouts, scored_trees


@dataclass(frozen=True)
class Calibration:
    """Noise levels, one per step, and what it cost to find them."""

    levels: list[float]
    network_evaluations: int
    seconds: float


def calibrate(config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer, processes: Processes) -> Calibration:
    """Noise levels for kernel `calibrated`.

    Each round rolls out the groups of some prompts and counts, step by step, how many transitions raised and how many lowered
    the value of their state. Where the two are balanced the noise does no harm and its level rises, else it falls.
    """
    calibration, kernel, begin, evaluations = config.calibration, config.rollout.plan.kernel, time.perf_counter(), 0
    assert calibration is not None and isinstance(kernel, Calibrated)
    chosen = spread(prompts, calibration.prompts)
    levels = np.full(config.policy.steps, kernel.level)
    for round_ in bar(range(calibration.rounds), "calibrate", processes.is_main):
        signs, cost = _signs(with_levels(config, levels.tolist()), policy, processes.share(chosen), scorer, round_)
        raised, lowered = np.sum(processes.gather([signs]), axis=0)
        levels = adjusted(levels, raised, lowered, calibration)
        evaluations += sum(processes.gather([cost]))
    return Calibration([round(float(level), 6) for level in levels], evaluations, round(time.perf_counter() - begin, 2))


def adjusted(levels: np.ndarray, raised: np.ndarray, lowered: np.ndarray, calibration: CalibrationConfig) -> np.ndarray:
    """[S] new levels: up by `change` where |#raised - #lowered| < `tolerance` x (#raised + #lowered), else down.

    Steps where nothing changed keep their level.
    """
    moved = raised + lowered
    balanced = np.abs(raised - lowered) < calibration.tolerance * moved
    change = np.where(moved == 0, 0.0, np.where(balanced, calibration.change, -calibration.change))
    return np.clip(levels + change, calibration.least, calibration.most)


def with_levels(config: Config, levels: Sequence[float]) -> Config:
    return config.with_plan(kernel=config.rollout.plan.kernel.model_copy(update={"levels": tuple(levels)}))


def _signs(config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer, round_: int) -> tuple[np.ndarray, int]:
    """([2, S], network evaluations): how many transitions of each step raised and how many lowered the value."""
    groups = dict.fromkeys((prompt.index for prompt in prompts), config.rollout.group_size)
    shapes = config.shapes(0, groups, draw=("calibration plan", round_))
    key = (config.seed, "calibration", round_)
    trees, cost = scored_trees(Rollouts.of(config, policy), scorer, config.rewards, prompts, shapes, key)
    counts = np.zeros((2, config.policy.steps), int)
    for tree in trees:
        gains = Gain().assign(tree).value
        for node in tree.shape.trained:
            counts[:, tree.shape.nodes[node].step - 1] += (gains[node] > tree.rounding, gains[node] < -tree.rounding)
    return counts, cost
