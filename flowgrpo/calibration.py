"""Exploration calibrated before training (DenseGRPO, arXiv 2601.20218): as much noise per step as the reward can bear.

P prompts, N nodes, S steps.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.config import CalibrationConfig, Config
from flowgrpo.credit import ScoredTree
from flowgrpo.credit.gain import Gain
from flowgrpo.evaluation import spread
from flowgrpo.policies.protocol import Policy
from flowgrpo.processes import Processes
from flowgrpo.progress import bar
from flowgrpo.prompts import Prompt
from flowgrpo.sampling.keys import numpy_generator
from flowgrpo.sampling.rollout import rollout
from flowgrpo.scored import group_rewards
from flowgrpo.scoring import Scorer


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
    calibration, begin, evaluations = config.calibration, time.perf_counter(), 0
    assert calibration is not None
    chosen = spread(prompts, calibration.prompts)
    levels = np.full(config.policy.steps, float(config.rollout.plan.kernel.model_dump()["level"]))
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
    plan = config.rollout.plan
    kernel = plan.kernel.model_copy(update={"levels": tuple(levels)})
    changed = config.rollout.model_copy(update={"plan": plan.model_copy(update={"kernel": kernel})})
    return config.model_copy(update={"rollout": changed})


def _signs(config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer, round_: int) -> tuple[np.ndarray, int]:
    """([2, S], network evaluations): how many transitions of each step raised and how many lowered the value."""
    plan, group_size = config.rollout.plan, config.rollout.group_size
    shape = plan.shape(config.policy.steps, group_size, 0, numpy_generator((config.seed, "calibration plan", round_)))
    counts, cost = np.zeros((2, config.policy.steps), int), 0
    for i in range(0, len(prompts), config.rollout.prompts_per_block):
        block_prompts = prompts[i : i + config.rollout.prompts_per_block]
        block = rollout(policy, block_prompts, shape, (config.seed, "calibration", round_), config.rollout.micro_batch, False)
        cost += block.network_evaluations
        for rewards in group_rewards(shape, scorer(block.samples)):
            total = np.sum([scorer.weights[label] * values for label, values in rewards.items()], axis=0)
            gains = Gain().assign(ScoredTree(shape, total)).value
            for node in shape.trained:
                counts[:, shape.nodes[node].step - 1] += (gains[node] > 0, gains[node] < 0)
    return counts, cost
