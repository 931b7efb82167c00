"""Whether the model gets better along a gradient: the mean reward of its own samples, a small step forwards and backwards.

N prompts, D numbers of a direction.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.intervals import Interval, mean_interval
from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.exam import Exam
from flowgrpo.policies._weights import put
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.combine import summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer

SAMPLES = 2
"""Start noises of a prompt."""
BATCH = 64


@dataclass(frozen=True)
class Slope:
    """Of the mean reward along a direction, for a step of one length, with intervals: `change` is the part that turns round with
    the direction, (ahead - behind) / 2, and `bend` the part that does not, (ahead + behind) / 2 - here, the curvature's."""

    change: float
    change_interval: Interval
    bend: float
    bend_interval: Interval


class Check:
    """The mean reward of the model's own sampler (the ODE of a flow), in as many steps as its held-out evaluation has. The noise
    that a sample starts from is the same whatever the weights (common random numbers)."""

    def __init__(self, config: Config, policy: Policy, scorer: Scorer, prompts: Sequence[Prompt]) -> None:
        self.config, self.policy, self.scorer = config, policy, scorer
        evaluation = config.evaluation
        self.steps = evaluation.steps if evaluation else config.policy.steps
        batch = evaluation.batch if evaluation else BATCH
        self.exam = Exam(prompts, self.steps, config.seed, batch, config.policy.batch_key, samples_per_prompt=SAMPLES)
        self.here = self._rewards()

    def __call__(self, direction: Tensor, length: float) -> Slope:
        """Along a direction [D], by steps of this length; intervals are bootstrapped over prompts."""
        unit = direction * (length / float(direction.norm()))
        with self._moved(unit):
            ahead = self._rewards()
        with self._moved(-unit):
            behind = self._rewards()
        change, bend = (ahead - behind) / 2.0, (ahead + behind) / 2.0 - self.here
        return Slope(float(change.mean()), mean_interval(change), float(bend.mean()), mean_interval(bend))

    def _rewards(self) -> np.ndarray:
        """[N], each the mean of a prompt's samples."""
        sums: dict[int, float] = {}
        for batch in self.exam.batches:
            rewards = raw_reward(self.scorer(self.exam.samples(batch, self.policy)), self.config)
            for question, reward in zip(batch, rewards, strict=True):
                sums[question.prompt.index] = sums.get(question.prompt.index, 0.0) + float(reward) / SAMPLES
        return np.array([sums[prompt.index] for prompt in self.exam.prompts])

    @contextmanager
    def _moved(self, change: Tensor) -> Iterator[None]:
        """Inside, the weights are further on by this [D]."""
        parameters = list(self.policy.trainable().values())
        before = [p.data for p in parameters]
        parts = change.split([p.numel() for p in parameters])
        try:
            put(parameters, [p + part.view_as(p).to(p) for p, part in zip(before, parts, strict=True)])
            yield
        finally:
            put(parameters, before)


def raw_reward(scores: Mapping[str, np.ndarray], config: Config) -> np.ndarray:
    """[B]: the weighted sum of scores, without what only a group can have (`normalise`)."""
    alone = {label: reward.model_copy(update={"normalise": "none"}) for label, reward in config.rewards.items()}
    return weighted_sum(summands({label: values[None] for label, values in scores.items()}, alone), alone)[0]


def comparing(scorer: Scorer) -> list[str]:
    """The rewards that can't score a sample which is alone."""
    return [label for label in scorer.rewards if label not in scorer.alone]


def scaled(mean: Tensor, square: Tensor) -> Tensor:
    """[D]: mean / sqrt(square), the step of an AdamW that has seen many such gradients; 0 where there never was any."""
    return torch.where(square > 0, mean / square.sqrt().clamp(min=torch.finfo(square.dtype).tiny), 0.0)
