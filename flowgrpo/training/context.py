"""Try the prompts of an update, and ask its groups what a context makes of the tries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.processes import Processes
from flowgrpo.data.context import Context
from flowgrpo.data.prompts import Prompt
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.combine import summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.collect import Rollouts


@dataclass(frozen=True)
class Tries:
    """Groups of the `shape` come before those that are trained."""

    context: Context
    shape: Shape
    rollouts: Rollouts
    scorer: Scorer
    rewards: Mapping[str, RewardConfig]
    processes: Processes
    seed: int

    @classmethod
    def of(cls, config: Config, rollouts: Rollouts, scorer: Scorer, processes: Processes) -> "Tries | None":
        """None where groups answer their prompts as they are."""
        context, shape = config.rollout.context, config.rollout.tries(config.policy.steps)
        if context is None or shape is None:
            return None
        return cls(context, shape, rollouts, scorer, config.rewards, processes, config.seed)

    def __call__(self, prompts: Sequence[Prompt], update: int) -> list[Prompt]:
        """The same prompts with other texts, in every process."""
        blocks = self.processes.share(self.rollouts.blocks(prompts))
        asked = [row for numbers in blocks for row in self._asked(numbers, [prompts[i] for i in numbers], update)]
        texts = dict(self.processes.gather(asked))
        return [replace(prompt, text=texts[i]) for i, prompt in enumerate(prompts)]

    def _asked(self, numbers: Sequence[int], prompts: Sequence[Prompt], update: int) -> list[tuple[int, str]]:
        """[(number, text)]"""
        block = self.rollouts(prompts, [self.shape] * len(prompts), (self.seed, "context", update))
        scores = {label: values.reshape(len(prompts), -1) for label, values in self.scorer(block.samples).items()}
        total: np.ndarray = weighted_sum(summands(scores, self.rewards), self.rewards)
        answers = np.array(block.samples.texts, dtype=object).reshape(len(prompts), -1)
        rows = zip(numbers, prompts, answers, total, strict=True)
        return [(number, self.context.asked(prompt, list(row), rewards)) for number, prompt, row, rewards in rows]
