"""The GRPO trainer: draw prompts, roll out a tree for each and score its leaves (`collect.py`), turn rewards into advantages
(`scored.py`), take optimizer steps (`learn.py`, on `weights.py`).

It knows policies, plans, rewards, credit and objectives by their protocols only.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt, PromptOrder
from flowgrpo.objective.advantage import expected
from flowgrpo.objective.memory import Memory
from flowgrpo.policies._compiled import seconds_compiling
from flowgrpo.policies.protocol import Policy
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.allocation import Allocation
from flowgrpo.training.collect import Begun, Collector, Rollouts, UpdateBlock
from flowgrpo.training.context import Tries
from flowgrpo.training.critic import Critic
from flowgrpo.training.ema import Ema
from flowgrpo.training.fleet.rollouts import Rollers
from flowgrpo.training.given import GivenAnswers
from flowgrpo.training.gradient import RewardGradient
from flowgrpo.training.learn import Learner
from flowgrpo.training.movement import Movement
from flowgrpo.training.refill import Refill
from flowgrpo.training.scored import Assessment, Group, Scored
from flowgrpo.training.teacher import Teacher
from flowgrpo.training.weights import TrainedWeights


class Trainer:
    """`updates` counts what is done. With `critic` the values of another trainer are learned on; `rollers` roll out elsewhere."""

    def __init__(
        self,
        config: Config,
        policy: Policy,
        prompts: list[Prompt],
        scorer: Scorer,
        processes: Processes,
        critic: Critic | None = None,
        rollers: Rollers | None = None,
    ) -> None:
        self.config, self.policy, self.processes = config, policy, processes
        self.order = PromptOrder(prompts, config.rollout.prompts_per_update, config.seed, config.rollout.prompt_sampler)
        self.allocation = Allocation(config)
        rollouts = Rollouts.of(config, policy, config.objective.needs_old_prediction)
        self.collector = Collector(rollouts, scorer, processes, config.seed, rollers.begin if rollers else None)
        self.rollers, self.lag = rollers, config.fleet.lag if rollers else 0
        self.coming: Drawn | None = None
        self.behind: dict[str, Tensor] | None = None
        self.tries = Tries.of(config, rollouts, scorer, processes)
        self.movement = Movement.of(config, policy, processes)
        self.assessment = Assessment.of(config)
        self.refill = Refill(config.rollout, self.order, self.assessment)
        self.memory = Memory(whose=config.advantage.baseline.type)
        self.critic = critic or Critic.of(config, policy, prompts[0])
        self.weights = TrainedWeights(policy, config, processes)
        teacher, unit = Teacher.of(config, policy, prompts[0]), config.policy.log_ratio_unit
        given, gradient = GivenAnswers.of(config, policy, prompts), RewardGradient.of(config, policy, scorer)
        self.learner = Learner(
            policy, self.weights, rollouts, config.objective, unit, config.optimizer, processes, teacher, given, gradient
        )
        self.minibatches = config.optimizer.minibatches(config.rollout.prompts_per_update)
        self.updates = 0
        self.clock: Callable[[], Clock] = Clock

    def update(self) -> tuple[dict[str, Any], list[UpdateBlock], Scored]:
        """One update: its metrics, this process's rollouts and their scores. `compiling` in the metrics are seconds, which those
        of the phases hold too."""
        clock, compiled, beside = self.clock(), seconds_compiling(), self._beside
        blocks, scored = self.collect(clock)
        if self.lag:
            self._begin_next(scored, clock)
        with clock("update"):
            learned = self.learner(blocks, scored, self._minibatches(scored.prompts), self.updates, bool(self.config.selection))
            self.learner.begun = True
            self.weights.end_update(self.updates + 1)
            if not self.lag:
                self.take_in(scored)
        evaluations = self._beside - beside + sum(block.rollout.network_evaluations for block in blocks)
        metrics = {
            "update": self.updates,
            **scored.metrics(),
            **(self.critic.metrics() if self.critic else {}),
            **learned,
            "network_evaluations": sum(self.processes.gather([evaluations])),
            **({"added_groups": self._added(scored.prompts)} if self.refill.most else {}),
            **({"staleness": min(self.lag, self.updates)} if self.lag else {}),
            **clock.seconds,
        }
        if (compiling := seconds_compiling() - compiled) > 0.0:
            metrics["compiling"] = round(compiling, 1)
        self.updates += 1
        self.learner.begun = False
        return metrics, blocks, scored

    def collect(self, clock: "Clock") -> tuple[list[UpdateBlock], Scored]:
        """The rollouts of the next update, and what is trained of them."""
        drawn, self.coming = self.coming or self._drawn(self.updates, clock), None
        prompts, shapes = drawn.prompts, drawn.shapes
        blocks, groups = self._groups(drawn.begun, clock)
        for phase in range(1, self.config.rollout.phases):
            blocks, groups = self._extended(prompts, blocks, groups, phase, clock)
        while more := self.refill(prompts, groups, self.updates):
            more = self._asked(more, clock)
            added = self.allocation.shapes(self.updates, [prompt.index for prompt in more])
            prompts, shapes = [*prompts, *more], [*shapes, *(self.critic.switched(added) if self.critic else added)]
            further = self._groups(self._begun(prompts, shapes, self.updates, len(groups)), clock)
            blocks, groups = [*blocks, *further[0]], [*groups, *further[1]]
        moved = self._moved(blocks, clock)
        with clock("reward"):
            scored = self.assessment(prompts, groups, self.updates, self.critic, self.memory, moved)
        return blocks, scored

    def _drawn(self, update: int, clock: "Clock") -> "Drawn":
        """What an update asks, begun."""
        prompts = self._asked(self.order(update, expected(self.memory, self.config.advantage)), clock)
        shapes = self.allocation.shapes(update, [prompt.index for prompt in prompts])
        if self.critic:
            shapes = self.critic.shapes(shapes)
        self._publish()
        return Drawn(prompts, shapes, self._begun(prompts, shapes, update))

    def _begin_next(self, scored: Scored, clock: "Clock") -> None:
        """Let the next update be rolled out while this one is learned: all that it needs of this one are its scores."""
        self.learner.begun = True
        self.take_in(scored)
        if self.updates + 1 < self.config.updates:
            self.coming = self._drawn(self.updates + 1, clock)
        else:
            self._publish()

    def _publish(self) -> None:
        """The rollouts that begin now are made with today's weights, or after a pause with those that were published before."""
        if self.rollers:
            with self.weights.sampling():
                self.processes.finish()
                self.rollers.publish(self.behind or self.weights.parameters)
            self.behind = None

    def _asked(self, prompts: list[Prompt], clock: "Clock") -> list[Prompt]:
        """What the groups of these prompts answer."""
        if not self.tries:
            return prompts
        with clock("context"), self.weights.sampling():
            return self.tries(prompts, self.updates)

    def _moved(self, blocks: Sequence[UpdateBlock], clock: "Clock") -> dict[int, float] | None:
        """How far the policy has moved since these prompts were visited, where that is asked."""
        if not self.movement:
            return None
        with clock("movement"), self.weights.sampling():
            return self.movement(blocks)

    @property
    def _beside(self) -> int:
        """This process's network evaluations so far that are of no group."""
        return sum(part.evaluations for part in (self.tries, self.movement) if part)

    def _begun(self, prompts: Sequence[Prompt], shapes: Sequence[Shape], update: int, first: int = 0) -> Begun:
        """This process's rollouts of the prompts from the `first` on."""
        slots = [[slot for slot in minibatch if slot >= first] for minibatch in self._minibatches(prompts)]
        return self.collector.begin(prompts, shapes, update, slots)

    def _groups(self, begun: Begun, clock: "Clock") -> tuple[list[UpdateBlock], list[Group]]:
        """These rollouts, and the scored groups of all processes."""
        with self.collector.beside:
            with clock("rollout"), self.weights.sampling():
                blocks = self.collector.roll_out(begun)
            with clock("reward"):
                return blocks, self.collector.score(blocks)

    def _extended(
        self, prompts: Sequence[Prompt], blocks: Sequence[UpdateBlock], groups: Sequence[Group], phase: int, clock: "Clock"
    ) -> tuple[list[UpdateBlock], list[Group]]:
        """The rollouts of all phases up to this one, and the scored groups."""
        earned = self.assessment.earned(groups, self.updates)
        indices, shapes = [prompt.index for prompt in prompts], [group.shape for group in groups]
        added = self.allocation.further(indices, shapes, earned, self.updates, phase)
        with self.collector.beside:
            with clock("rollout"), self.weights.sampling():
                blocks = self.collector.extend(blocks, added, self.updates)
            with clock("reward"):
                return blocks, self.collector.score(blocks)

    def _minibatches(self, groups: Sequence[Any]) -> list[list[int]]:
        """Of an update with these groups: those that share an optimizer step."""
        return self.config.optimizer.minibatches(self.config.rollout.prompts_per_update, self._added(groups))

    def _added(self, groups: Sequence[Any]) -> int:
        return len(groups) - self.config.rollout.prompts_per_update

    def take_in(self, scored: Scored) -> None:
        """What later updates know of this one."""
        self.allocation.see(scored)
        self.memory = scored.memory
        if self.movement:
            self.movement.take_in()
        if self.critic:
            self.critic.take_in()

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
        kept = {"critic": self.critic, "answers": self.movement, "behind": self.lag}
        return [*self.weights.kinds, *(kind for kind, there in kept.items() if there)]

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that a resumed run needs: (named tensors, facts)."""
        tensors, facts = self.weights.state()
        if self.critic:
            tensors, facts = {**tensors, "critic": self.critic.state()}, {**facts, "values_used": self.critic.used}
        if self.lag and self.rollers:
            tensors = {**tensors, "behind": self.rollers.held}
        if self.movement:
            tensors = {**tensors, "answers": self.movement.state()}
        learned = {"spread": self.allocation.state(), "memory": self.memory.state()}
        return tensors, {"updates": self.updates, **learned, **facts}

    def load(self, tensors: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
        """The inverse of `state`. Errors: ValueError where the tensors are of another model."""
        self.weights.load(tensors, facts)
        if (self.weights.old or self.lag) and facts["updates"]:
            self.learner.check = None
        if self.lag:
            self.behind = tensors["behind"]
        self.allocation.load(facts["spread"])
        self.memory = Memory.loaded(facts.get("memory", {}), self.memory.whose)
        if self.critic:
            self.critic.load(tensors["critic"], facts["values_used"])
        if self.movement:
            self.movement.load(tensors["answers"])
        self.updates = facts["updates"]


@dataclass(frozen=True)
class Drawn:
    """An update whose rollouts have begun."""

    prompts: list[Prompt]
    shapes: list[Shape]
    begun: Begun


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        so_far = self.seconds.get(f"seconds/{phase}", 0.0)
        self.seconds[f"seconds/{phase}"] = round(so_far + time.perf_counter() - start, 4)
