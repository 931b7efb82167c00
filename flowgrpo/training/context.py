"""Try the prompts of an update, and ask its groups what a context makes of the tries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.keys import Key, numpy_generator
from flowgrpo.core.processes import Processes
from flowgrpo.data.context import Context, Replies, Turn
from flowgrpo.data.prompts import Prompt
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.combine import summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.collect import Rollouts
from flowgrpo.training.rollout import Block


@dataclass
class Tries:
    """Groups of the `shapes`, one for each turn of the context, come before those that are trained. `evaluations` are this
    process's so far."""

    context: Context
    shapes: Sequence[Shape]
    rollouts: Rollouts
    scorer: Scorer
    rewards: Mapping[str, RewardConfig]
    processes: Processes
    seed: int
    evaluations: int = 0

    @classmethod
    def of(cls, config: Config, rollouts: Rollouts, scorer: Scorer, processes: Processes) -> "Tries | None":
        """None where groups answer their prompts as they are."""
        context = config.rollout.context
        if context is None:
            return None
        return cls(context, config.rollout.turns(config.policy.steps), rollouts, scorer, config.rewards, processes, config.seed)

    def __call__(self, prompts: Sequence[Prompt], update: int) -> list[Prompt]:
        """The same prompts as their groups are asked, in every process."""
        so_far: list[list[Replies]] = [[] for _ in prompts]
        first: Key = (self.seed, "context", update)
        for number, turn in enumerate(self.context.turns):
            further = {i: self.context.further(prompt, so_far[i]) for i, prompt in enumerate(prompts)}
            asked = {i: replace(prompts[i], text=text) for i, text in further.items() if text is not None}
            key = (*first, number) if number else first
            for i, replies in self._replies(asked, turn, self.shapes[number], key).items():
                so_far[i].append(replies)
        keys = [(*first, "group", prompt.index) for prompt in prompts]
        rows = zip(prompts, so_far, keys, strict=True)
        return [self.context.asked(prompt, replies, numpy_generator(key)) for prompt, replies, key in rows]

    def _replies(self, asked: Mapping[int, Prompt], turn: Turn, shape: Shape, key: Key) -> dict[int, Replies]:
        """By the numbers of the prompts, in every process."""
        numbers = [*asked]
        blocks = self.rollouts.blocks([*asked.values()])
        mine = [[numbers[i] for i in block] for block in self.processes.share(blocks)]
        return dict(self.processes.gather([row for block in mine for row in self._of_block(asked, block, turn, shape, key)]))

    def _of_block(
        self, asked: Mapping[int, Prompt], numbers: Sequence[int], turn: Turn, shape: Shape, key: Key
    ) -> list[tuple[int, Replies]]:
        block = self.rollouts([asked[i] for i in numbers], [shape] * len(numbers), key)
        self.evaluations += block.network_evaluations
        answers = np.array(block.samples.texts, dtype=object).reshape(len(numbers), -1)
        rewards = self._judged(block, len(numbers)) if turn.judged else np.empty((len(numbers), 0))
        rows = zip(numbers, answers, rewards, strict=True)
        return [(i, Replies(asked[i].text, list(said), earned)) for i, said, earned in rows]

    def _judged(self, block: Block, groups: int) -> np.ndarray:
        """[P, N]"""
        scores = {label: values.reshape(groups, -1) for label, values in self.scorer(block.samples).items()}
        total: np.ndarray = weighted_sum(summands(scores, self.rewards), self.rewards)
        return total
