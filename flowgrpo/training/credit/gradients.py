"""The gradients of K independent updates of a scheme, prompt by prompt, at weights that do not change.

J groups of prompts in all updates together, D numbers of a gradient, M of its sketch.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key, numpy_generator, seed_of
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt
from flowgrpo.objective.memory import Memory
from flowgrpo.policies.protocol import Policy
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.allocation import Allocation
from flowgrpo.training.collect import UpdateBlock
from flowgrpo.training.credit.point import Point
from flowgrpo.training.credit.sketch import Sketch
from flowgrpo.training.critic import Critic
from flowgrpo.training.learn import Totals
from flowgrpo.training.scored import Scored
from flowgrpo.training.trainer import Clock, Trainer

PARTS = 6
"""Independent mean gradients of a scheme, to see what their noise does."""


@dataclass(frozen=True)
class Batch:
    """The prompts of an update. No prompt is in two folds, so gradients of two folds have nothing in common but the weights."""

    fold: int
    prompts: list[Prompt]


def batches_of(prompts: Sequence[Prompt], updates: int, most: int, key: Key) -> list[Batch]:
    """`most` prompts for each update. The prompts are split into as many folds as there are updates, or as have so many prompts.

    Errors: UserError where there aren't two folds.
    """
    folds = min(updates, len(prompts) // most)
    if folds < 2:
        raise UserError(
            f"{len(prompts)} prompts are too few for two updates of {most} that have none in common; give at least {2 * most}"
        )
    order = [prompts[i] for i in numpy_generator(key).permutation(len(prompts))]
    parts = [order[fold::folds] for fold in range(folds)]
    return [Batch(k % folds, _turn(parts[k % folds], k // folds, most)) for k in range(updates)]


def _turn(prompts: Sequence[Prompt], turn: int, most: int) -> list[Prompt]:
    return [prompts[(turn * most + i) % len(prompts)] for i in range(most)]


@dataclass
class Gradients:
    """What the updates of a scheme said, group by group.

    `vectors` are sketches [M] of minus the gradient of a group's share of the loss, times the `groups` of its optimizer step, so
    that a step's gradient is their mean. `prompt`, `fold` and `step` are numbers [J]. `evaluations` of the network and `seconds`
    are of all `steps` together; seconds count rollouts, rewards and gradients. `silent` are groups that train nothing, `rewards`
    the mean reward of each update. In full length are kept the mean steps of at most PARTS shares of the updates, `means`
    (count, [D]), and the mean `square` [D] of all steps.
    """

    groups: int
    sketch_error: float = 0.0
    vectors: list[Tensor] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    fold: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    steps: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    silent: int = 0
    rewards: list[float] = field(default_factory=list)
    means: dict[int, tuple[int, Tensor]] = field(default_factory=dict)
    square: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, sketch: Sketch, parts: Sequence[Tensor | None], prompts: Sequence[Prompt], fold: int) -> None:
        """An optimizer step: the part [D] of each group in its gradient, None where it has none."""
        whole = torch.zeros(sketch.length)
        for part, prompt in zip(parts, prompts, strict=True):
            self.vectors.append(torch.zeros(sketch.size) if part is None else sketch(part * -float(len(parts))))
            self.prompt.append(prompt.index)
            self.fold.append(fold)
            self.step.append(self.steps)
            self.silent += part is None
            if part is not None:
                whole -= part.float().cpu()
        self.steps += 1
        self.square = self.square + (whole.square() - self.square) / self.steps
        share = fold % PARTS
        count, mean = self.means.get(share, (0, torch.zeros(())))
        self.means[share] = count + 1, mean + (whole - mean) / (count + 1)

    def directions(self) -> list[Tensor]:
        """The mean steps that are not 0; no two of them have a prompt in common."""
        return [mean for _, mean in self.means.values() if bool(mean.any())]


class Measurer:
    """Takes the gradients of one scheme, at a policy's weights as they are. What is learned (allocation, values) goes on from
    one update to the next."""

    def __init__(self, config: Config, policy: Policy, scorer: Scorer, sketch: Sketch, point: Point) -> None:
        self.config, self.policy, self.scorer, self.sketch, self.done = config, policy, scorer, sketch, point.updates
        self.allocation = Allocation(config)
        self.allocation.load(point.spread)
        self.memory = Memory.loaded(point.memory, config.advantage.baseline.type)
        self.critic: Critic | None = None
        self.found = Gradients(config.rollout.prompts_per_update // config.optimizer.steps_per_update, sketch.error)

    def __call__(self, batch: Batch, number: int) -> None:
        """One update more: what a run with a seed of its own would do next, from the rollout to the gradient, but no step."""
        begin = time.perf_counter()
        config = self.config.model_copy(update={"seed": seed_of((self.config.seed, "credit", number))})
        prompts = batch.prompts[: config.rollout.prompts_per_update]
        trainer = Trainer(config, self.policy, prompts, self.scorer, Processes.alone(), self.critic)
        trainer.updates, trainer.allocation, trainer.memory = self.done, self.allocation, self.memory
        blocks, scored = trainer.collect(Clock())
        trainer.take_in(scored)
        self.critic, self.memory = trainer.critic, trainer.memory
        parts, known = parts_by_slot(trainer, blocks, scored), {prompt.index: prompt for prompt in prompts}
        drawn = [known[index] for index in scored.prompts]
        for slots in trainer.minibatches:
            self.found.add(self.sketch, [parts.get(slot) for slot in slots], [drawn[slot] for slot in slots], batch.fold)
        self.found.evaluations += sum(block.rollout.network_evaluations for block in blocks)
        self.found.rewards.append(scored.metrics()["reward"])
        self.found.seconds += time.perf_counter() - begin

    @property
    def updates(self) -> int:
        return len(self.found.rewards)


def parts_by_slot(trainer: Trainer, blocks: Sequence[UpdateBlock], scored: Scored) -> dict[int, Tensor]:
    """Of each group that trains anything its part [D] of the gradient of its optimizer step, before that is clipped.

    Every minibatch is taken for the first of the update, at the weights as they are. Errors: UserError of the on-policy check.
    """
    parts = dict(_parts(trainer, blocks, scored))
    if trainer.learner.check:
        trainer.learner.check()
    return parts


def _parts(trainer: Trainer, blocks: Sequence[UpdateBlock], scored: Scored) -> Iterator[tuple[int, Tensor]]:
    learner, totals = trainer.learner, Totals()
    totals.begin()
    trained, mean_weight = learner.prepared(blocks, scored, bool(trainer.config.selection))
    for slots in trainer.minibatches:
        votes, count = scored.votes(slots, learner.objective.reduce)
        groups = [pair for block in trained if block.slots[0] in slots for pair in block.by_group()]
        for slot, group in groups:
            if votes[slot].any():
                learner.accumulate(group, scored.advantage, votes, count, mean_weight, totals)
                yield slot, trainer.weights.taken_gradient()
