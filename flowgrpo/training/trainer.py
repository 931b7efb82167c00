"""The GRPO trainer: draw prompts, roll out a tree for each and score its leaves (`collect.py`), turn rewards into advantages
(`scored.py`), take optimizer steps (`learn.py`, on `weights.py`).

It knows policies, plans, rewards, credit and objectives by their protocols only.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt, PromptOrder
from flowgrpo.policies._compiled import seconds_compiling
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.allocation import Allocation
from flowgrpo.training.collect import Collector, Rollouts, UpdateBlock
from flowgrpo.training.context import Tries
from flowgrpo.training.critic import Critic
from flowgrpo.training.ema import Ema
from flowgrpo.training.given import GivenAnswers
from flowgrpo.training.learn import Learner
from flowgrpo.training.scored import Assessment, Scored
from flowgrpo.training.teacher import Teacher
from flowgrpo.training.weights import TrainedWeights


class Trainer:
    """`updates` counts what is done. With `critic` the values of another trainer are learned on."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        prompts: list[Prompt],
        scorer: Scorer,
        processes: Processes,
        critic: Critic | None = None,
    ) -> None:
        self.config, self.policy, self.processes = config, policy, processes
        self.order = PromptOrder(prompts, config.rollout.prompts_per_update, config.seed)
        self.allocation = Allocation(config)
        rollouts = Rollouts.of(config, policy, config.objective.needs_old_prediction)
        self.collector = Collector(rollouts, scorer, processes, config.seed)
        self.tries = Tries.of(config, rollouts, scorer, processes)
        self.assessment = Assessment.of(config)
        self.critic = critic or Critic.of(config, policy, prompts[0])
        self.weights = TrainedWeights(policy, config, processes)
        teacher, unit = Teacher.of(config, policy, prompts[0]), config.policy.log_ratio_unit
        given = GivenAnswers.of(config, policy, prompts)
        self.learner = Learner(
            policy, self.weights, rollouts, config.objective, unit, config.optimizer, processes, teacher, given
        )
        self.minibatches = config.optimizer.minibatches(config.rollout.prompts_per_update)
        self.updates = 0
        self.clock: Callable[[], Clock] = Clock

    def update(self) -> tuple[dict[str, Any], list[UpdateBlock], Scored]:
        """One update: its metrics, this process's rollouts and their scores. `compiling` in the metrics are seconds, which those
        of the phases hold too."""
        clock, compiled = self.clock(), seconds_compiling()
        blocks, scored = self.collect(clock)
        with clock("update"):
            learned = self.learner(blocks, scored, self.minibatches, self.updates, bool(self.config.selection))
            self.weights.end_update(self.updates + 1)
        tried = self.tries.shape.network_evaluations * self.config.rollout.prompts_per_update if self.tries else 0
        evaluations = sum(block.rollout.network_evaluations for block in blocks)
        metrics = {
            "update": self.updates,
            **scored.metrics(),
            **(self.critic.metrics() if self.critic else {}),
            **learned,
            "network_evaluations": tried + sum(self.processes.gather([evaluations])),
            **clock.seconds,
        }
        if (compiling := seconds_compiling() - compiled) > 0.0:
            metrics["compiling"] = round(compiling, 1)
        self.updates += 1
        self.learner.begun = False
        return metrics, blocks, scored

    def collect(self, clock: "Clock") -> tuple[list[UpdateBlock], Scored]:
        """The rollouts of the next update, and what is trained of them."""
        prompts = self.order(self.updates)
        indices = [prompt.index for prompt in prompts]
        if self.tries:
            with clock("context"), self.weights.sampling():
                prompts = self.tries(prompts, self.updates)
        shapes = self.allocation.shapes(self.updates, indices)
        if self.critic:
            shapes = self.critic.shapes(shapes)
        with self.collector.beside:
            with clock("rollout"), self.weights.sampling():
                blocks = self.collector.roll_out(prompts, shapes, self.updates, self.minibatches)
            with clock("reward"):
                scored = self.assessment(prompts, self.collector.score(blocks), self.updates, self.critic)
        self.allocation.see(scored, indices)
        return blocks, scored

    @property
    def whole(self) -> bool:
        """Whether the weights are those after `updates` updates: not between an update's first optimizer step and its end."""
        return not self.learner.begun

    @property
    def ema(self) -> Ema | None:
        return self.weights.ema

    @property
    def kinds(self) -> list[str]:
        """What the tensors of `state` are."""
        return [*self.weights.kinds, *(["critic"] if self.critic else [])]

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that a resumed run needs: (named tensors, facts)."""
        tensors, facts = self.weights.state()
        if self.critic:
            tensors, facts = {**tensors, "critic": self.critic.state()}, {**facts, "values_used": self.critic.used}
        return tensors, {"updates": self.updates, "spread": self.allocation.state(), **facts}

    def load(self, tensors: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
        """The inverse of `state`. Errors: ValueError where the tensors are of another model."""
        self.weights.load(tensors, facts)
        if self.weights.old and facts["updates"]:
            self.learner.check = None
        self.allocation.load(facts["spread"])
        if self.critic:
            self.critic.load(tensors["critic"], facts["values_used"])
        self.updates = facts["updates"]


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[f"seconds/{phase}"] = round(time.perf_counter() - start, 4)
