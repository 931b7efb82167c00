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
from flowgrpo.core.intervals import Interval, t_interval
from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.exam import Exam
from flowgrpo.policies._weights import put
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.combine import summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer

BATCH = 64


@dataclass(frozen=True)
class Slope:
    """Of the mean reward along a scheme's gradients, for a step of one length: `change` is the part that turns round with the
    direction, (ahead - behind) / 2, and `bend` the part that does not, (ahead + behind) / 2 - here, the curvature's.

    The mean over independent mean gradients; intervals are Student's over these, None for a single one.
    """

    change: float
    change_interval: Interval | None
    bend: float
    bend_interval: Interval | None


class Check:
    """The mean reward of the model's own sampler (the ODE of a flow), in as many steps as its held-out evaluation has. The noise
    that a sample starts from is the same whatever the weights (common random numbers)."""

    def __init__(self, config: Config, policy: Policy, scorer: Scorer, prompts: Sequence[Prompt]) -> None:
        self.config, self.policy, self.scorer = config, policy, scorer
        evaluation = config.evaluation
        self.steps = evaluation.steps if evaluation else config.policy.steps
        batch = evaluation.batch if evaluation else BATCH
        self.exam = Exam(prompts, self.steps, config.seed, batch, config.policy.batch_key)
        self.here = self._reward()

    def __call__(self, directions: Sequence[Tensor], length: float) -> Slope:
        """Along directions [D], by steps of this length."""
        pairs = [self._both(direction * (length / float(direction.norm()))) for direction in directions]
        changes = np.array([(ahead - behind) / 2.0 for ahead, behind in pairs])
        bends = np.array([(ahead + behind) / 2.0 - self.here for ahead, behind in pairs])
        return Slope(float(changes.mean()), t_interval(changes), float(bends.mean()), t_interval(bends))

    def _both(self, change: Tensor) -> tuple[float, float]:
        with self._moved(change):
            ahead = self._reward()
        with self._moved(-change):
            return ahead, self._reward()

    def _reward(self) -> float:
        total = 0.0
        for batch in self.exam.batches:
            total += float(raw_reward(self.scorer(self.exam.samples(batch, self.policy)), self.config).sum())
        return total / self.exam.count

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
