"""Whether the model gets better along a gradient: the mean reward of its own samples, a small step forwards and backwards.

N prompts, D numbers of a direction.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.intervals import Interval, t_interval
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.exam import Exam
from flowgrpo.policies._weights import put
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.combine import summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.credit.estimate import RESAMPLES, percentiles_of, ratio

BENT, HALVINGS = 0.25, 10


@dataclass(frozen=True)
class Slope:
    """Of the mean reward along a scheme's gradients, for a step of one length: `change` is the part that turns round with the
    direction, (ahead - behind) / 2, and `bend` the part that does not, (ahead + behind) / 2 - here, the curvature's.

    The mean over independent mean gradients; intervals are Student's over these, None for a single one. `pulls` are the changes
    that each mean gradient itself, unscaled, would make: their mean is the expected change by the scheme's gradient.
    """

    change: float
    change_interval: Interval | None
    bend: float
    bend_interval: Interval | None
    pulls: tuple[float, ...]


@dataclass(frozen=True)
class Pull:
    """What the check found of a scheme: `pulls` [C], the mean `square` of a step's length, and the `cost` of a step.

    E[step . grad R]^2 / (E|step|^2 cost), signed, is what the reward itself gains by a step of the best length, per evaluation.
    """

    pulls: np.ndarray
    square: float
    cost: float

    def worth(self, weight: np.ndarray) -> float:
        """With so many [C] of each pull."""
        mean = float(weight @ self.pulls / weight.sum())
        return float(np.sign(mean)) * mean**2 / (self.square * self.cost)

    def cut(self, count: int) -> "Pull":
        return replace(self, pulls=self.pulls[:count])

    def spread(self) -> "Pull":
        """The pulls further from their mean, so that the percentiles of resampled means are Student's."""
        from scipy import stats

        n, mean = len(self.pulls), self.pulls.mean()
        wider = stats.t.ppf(0.975, n - 1) / stats.norm.ppf(0.975) * (n / (n - 1)) ** 0.5
        return replace(self, pulls=mean + wider * (self.pulls - mean))


def factor(one: Pull, other: Pull) -> tuple[float, Interval]:
    """Of worth, with its bootstrap over the pulls: those of the same prompts together.

    They are few, so they are spread before they are drawn: the percentiles of a mean are then those of Student's interval.
    """
    count = min(len(one.pulls), len(other.pulls))
    everything = np.ones(count)
    value = float(ratio(one.cut(count).worth(everything), other.cut(count).worth(everything)))
    if count < 2:
        return value, (-np.inf, np.inf)
    above, below = one.cut(count).spread(), other.cut(count).spread()
    draws = numpy_generator(("credit", "pulls")).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return value, percentiles_of(np.array([ratio(above.worth(draw), below.worth(draw)) for draw in draws]))


class Check:
    """The mean reward of the model's own sampler (the ODE of a flow), in as many steps as its held-out evaluation has. The noise
    that a sample starts from is the same whatever the weights (common random numbers). As many are made at once as in a
    rollout."""

    def __init__(self, config: Config, policy: Policy, scorer: Scorer, prompts: Sequence[Prompt]) -> None:
        self.config, self.policy, self.scorer = config, policy, scorer
        evaluation = config.evaluation
        self.steps = evaluation.steps if evaluation else config.policy.steps
        self.exam = Exam(prompts, self.steps, config.seed, config.rollout.micro_batch, config.policy.batch_key)
        rewards = self._rewards()
        self.here, self.deviation = float(rewards.mean()), float(rewards.std())

    def __call__(self, directions: Sequence[Tensor], length: float) -> Slope:
        """Along directions [D], by steps of this length."""
        lengths = [float(direction.norm()) for direction in directions]
        pairs = [self._both(direction * (length / own)) for direction, own in zip(directions, lengths, strict=True)]
        changes = np.array([(ahead - behind) / 2.0 for ahead, behind in pairs])
        bends = np.array([(ahead + behind) / 2.0 - self.here for ahead, behind in pairs])
        pulls = tuple((changes * lengths / length).tolist())
        return Slope(float(changes.mean()), t_interval(changes), float(bends.mean()), t_interval(bends), pulls)

    def length(self, direction: Tensor, longest: float) -> float:
        """Of a step along a direction [D] that does not break the model: halved until the reward bends by no more than a share
        BENT of what samples differ by."""
        length = longest
        for _ in range(HALVINGS):
            ahead, behind = self._both(direction * (length / float(direction.norm())))
            if self.here - (ahead + behind) / 2.0 <= BENT * self.deviation:
                break
            length /= 2.0
        return length

    def _both(self, change: Tensor) -> tuple[float, float]:
        """The mean rewards ahead and behind."""
        with self._moved(change):
            ahead = self._rewards().mean()
        with self._moved(-change):
            return float(ahead), float(self._rewards().mean())

    def _rewards(self) -> np.ndarray:
        """[N]"""
        scores = (self.scorer(self.exam.samples(batch, self.policy, self.scorer.reads_latents)) for batch in self.exam.batches)
        return np.concatenate([raw_reward(one, self.config) for one in scores])

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
