"""The configuration of a run: strict, frozen, free of torch.

It is read from a recipe (`recipes.py`); `a.b=c` overrides are applied on top.
Quantities are global: prompts per update, group size, steps. What one process does is derived from them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from flowgrpo.config.recipes import Words, read_recipe
from flowgrpo.config.sections import (
    CalibrationConfig,
    CheckpointConfig,
    DistributedConfig,
    EmaConfig,
    EvaluationConfig,
    FleetConfig,
    OldConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    Seed,
    SentinelConfig,
    TeacherConfig,
)
from flowgrpo.core.errors import user_code
from flowgrpo.core.keys import Key
from flowgrpo.core.plugins import nearest
from flowgrpo.core.section import Section
from flowgrpo.objective import AdvantageConfig, ObjectiveConfig
from flowgrpo.objective.credit import AnyCredit
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.objective.ratio.plain import Plain
from flowgrpo.objective.selection import AnySelection
from flowgrpo.objective.transform import AnyTransform
from flowgrpo.policies import AnyPolicy
from flowgrpo.sampling.completion.learned import LearnedValues
from flowgrpo.sampling.kernels import KernelFamily
from flowgrpo.sampling.plans import Spread
from flowgrpo.sampling.shape import Shape


def _there(rewards: Any) -> Any:
    if isinstance(rewards, dict) and (absent := [label for label, reward in rewards.items() if reward is None]):
        known = rewards.keys() - {*absent}
        raise ValueError(f"'{absent[0]}' is null, and there is no such reward to take out ({nearest(str(absent[0]), known)})")
    return rewards


class Config(Section):
    """A run."""

    renamed: ClassVar[dict[str, str]] = {"checkpoint_every": "checkpoints.every"}

    seed: Seed = 0
    updates: PositiveInt
    policy: AnyPolicy
    rollout: RolloutConfig
    rewards: Annotated[dict[str, RewardConfig], BeforeValidator(_there)] = Field(min_length=1)
    """By label; null takes one out that a base has."""
    transforms: tuple[AnyTransform, ...] = ()
    """What training makes of the sum of the rewards, one after the other."""
    credit: AnyCredit = Terminal()
    advantage: AdvantageConfig = AdvantageConfig()
    selection: tuple[AnySelection, ...] = ()
    calibration: CalibrationConfig | None = None
    objective: ObjectiveConfig = ObjectiveConfig()
    teacher: TeacherConfig | None = None
    optimizer: OptimizerConfig
    old: OldConfig | None = None
    """null: the trained weights make the samples."""
    ema: EmaConfig | None = None
    evaluation: EvaluationConfig | None = None
    sentinels: Annotated[SentinelConfig, BeforeValidator(lambda given: {} if given is None else given)] = SentinelConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    fleet: FleetConfig = FleetConfig()
    distributed: DistributedConfig = DistributedConfig()
    rehearsal: tuple[str, ...] = ()
    """Of a run with `--tiny`: what stands in for what, so that none of its numbers is taken for more than it is."""
    output: str = "runs"
    tracker: Literal["none", "tensorboard", "wandb", "trackio", "mlflow", "swanlab", "comet_ml"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _evaluated_in_as_many_steps(cls, data: Any) -> Any:
        evaluation, policy = (data.get(key) if isinstance(data, dict) else None for key in ("evaluation", "policy"))
        if isinstance(evaluation, dict) and isinstance(policy, dict) and "steps" in policy:
            return {**data, "evaluation": {"steps": policy["steps"], **evaluation}}
        return data

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        with user_code("a component of this config"):
            complaint = next(filter(None, self._complaints()), None)
        if complaint:
            raise ValueError(complaint)
        return self

    def _complaints(self) -> Iterator[str | None]:
        """What does not fit together; each may rely on there being nothing before it."""
        yield self.advantage_complaint(self.policy.kernels)
        yield self.rollout.complaint(self.policy.steps)
        yield self.rollout.sampling_complaint(self.advantage.tracks_value)
        yield self._silence_complaint()
        yield self._immovable()
        shape = self.shape()
        yield self.policy.refusal(shape)
        if self.rollout.context and self.policy.makes != ("texts",):
            yield f"rollout.context '{self.rollout.context.type}' puts answers into prompts, and this policy makes no texts"
        yield from self._of_transforms()
        if self.rollout.context and self.rollout.context.begins and not self.policy.takes_answers:
            yield f"rollout.context '{self.rollout.context.type}' gives answers a beginning, and this policy can't be given texts"
        yield self.credit.complaint(shape)
        yield from (rule.complaint(shape) for rule in self.selection)
        if self.reads_entropy and self.policy.kernels.noise_scale:
            yield "a selection by entropy needs ids; a Gaussian step is as undecided as its noise, whatever is predicted"
        yield self.objective.complaint(self.policy.kernels, self.policy.posed_states > 0)
        yield self._of_no_ids()
        yield self._untaught()
        yield self._torn()
        yield self._of_files()
        yield self._of_gradients(shape)
        if self.objective.reference == "ema" and self.ema is None:
            yield "objective.reference: ema is the average that ema keeps; set ema, e.g. ema.decay=0.9"
        if self.calibration:
            yield self.calibration.complaint(self.rollout.plan.kernel, shape)
        yield self._unjoined()
        yield self._ungraphed()
        yield self.optimizer.complaint(self.rollout.prompts_per_update, self.updates)
        yield self.checkpoints.complaint(self.evaluation)
        yield self.fleet.complaint(self.rewards, self.rollout)
        yield self.distributed.complaint(self.policy, self.optimizer)
        yield self.distributed.splitting_complaint(self.policy, self.fleet)
        yield self._undivided()
        if self.evaluation:
            yield self.evaluation.complaint(self.rewards, self.policy)
        yield self.sentinels.complaint(self.rewards)
        yield from (reward.complaint(label, self.rollout.group_size) for label, reward in self.rewards.items())
        rewarded = any(reward.weight and not reward.gate for reward in self.rewards.values())
        if not rewarded and not self.objective.auxiliary:
            yield "every reward has weight 0 or is a gate: there is nothing to train on"

    def advantage_complaint(self, kernels: KernelFamily) -> str | None:
        """Why samples of such kernels can't be compared, or None; the rewards' own gradient needs no other sample."""
        compared = 2 if self.objective.surrogate.needs_gradient else self.rollout.group_size
        return self.advantage.complaint(compared, kernels, self.policy.makes)

    def _of_transforms(self) -> Iterator[str | None]:
        yield from (transform.complaint([*self.rewards]) for transform in self.transforms)
        if self.transforms and self.advantage.aggregate == "advantages":
            yield "transforms are of the sum of the rewards, which advantage.aggregate: advantages never makes; set it to rewards"
        if self.transforms and self.rollout.plan.completion:
            yield "transforms are of finished samples, and rollout.plan.completion values states on their way; take one out"

    def _untaught(self) -> str | None:
        terms, surrogate = self.objective.auxiliary, self.objective.surrogate
        asking = [f"auxiliary '{term.type}'" for term in terms if term.needs_teacher]
        asking += [f"surrogate '{surrogate.type}'"] if surrogate.reads_teacher else []
        if asking and self.teacher is None:
            return f"objective.{asking[0]} needs a teacher; set teacher.checkpoint, or teacher.policy.model"
        if self.teacher and not asking:
            return "nothing asks the teacher; set objective.auxiliary=[distillation], or take the teacher out"
        if (giving := next((term for term in terms if term.of_given), None)) and not self.policy.takes_answers:
            return f"objective.auxiliary '{giving.type}' is of given texts, which can't be outcomes of this policy"
        if unfit := next(filter(None, (term.complaint(self.advantage) for term in terms)), None):
            return unfit
        if terms and self.advantage.zero_variance == "drop":
            return (
                f"objective.auxiliary '{terms[0].type}' is of all samples, and advantage.zero_variance: drop leaves out those "
                "whose rewards are equal; set it to keep"
            )
        return None

    def _undivided(self) -> str | None:
        """What a team of processes can't do together, or None."""
        surrogate, completion = self.objective.surrogate, self.rollout.plan.completion
        alone = {
            f"objective.surrogate '{surrogate.type}' goes back through whole states": surrogate.needs_gradient,
            "rollout.plan.completion: learned reads whole sequences": isinstance(completion, LearnedValues),
            "calibration asks the rewards in each process": self.calibration is not None,
        }
        reason = next((reason for reason, asked in alone.items() if asked), None)
        return f"{reason}; set distributed.context to 1" if reason and self.distributed.context > 1 else None

    def _of_no_ids(self) -> str | None:
        if self.policy.chooses_ids or not (setting := self.objective.weighs_ids):
            return None
        return f"objective.{setting} weighs ids one by one, and no decision of this policy is an id of its own"

    @property
    def blocks_per_step(self) -> int:
        """Blocks of prompts that an optimizer step goes through, without those that a refill adds."""
        minibatch = self.optimizer.minibatches(self.rollout.prompts_per_update)[0]
        return -(-len(minibatch) // self.rollout.prompts_per_block)

    @property
    def sums_blocks(self) -> bool:
        """The gradients of several blocks add up to that of a step, in float64."""
        several = self.blocks_per_step > 1 or self.rollout.most_added > 0
        return several and self.optimizer.exact_sums and not self.distributed.shares_out

    @property
    def keeps_against(self) -> bool:
        """Whether rollouts keep what guidance moves away from: they are made where an update is, with the weights that it has at
        first, and it evaluates their states again."""
        return self.policy.keeps_against and not (self.old or self.fleet.rollout or self.objective.surrogate.needs_gradient)

    @property
    def reads_entropy(self) -> bool:
        """Whether somebody asks how undecided the policy was at the rollout."""
        return any(rule.needs_entropy for rule in self.selection)

    def _silence_complaint(self) -> str | None:
        """Two settings that both do something about groups whose samples all earn the same, or None."""
        rollout, advantage = self.rollout, self.advantage
        answers = {
            "rollout.refill": rollout.refill > 0,
            f"rollout.allocate: {rollout.allocate}": rollout.allocate != "equal",
            f"rollout.context: {rollout.context.type if rollout.context else None}": bool(
                rollout.context and rollout.context.answers_silence
            ),
            f"advantage.baseline: {advantage.baseline.type}": advantage.baseline.answers_silence,
            **{f"selection: {rule.type}": rule.drops_silence for rule in self.selection},
        }
        if len(given := [setting for setting, on in answers.items() if on]) > 1:
            return f"{given[0]} and {given[1]} are two answers to groups whose samples all earn the same; take one of them"
        kept = {"advantage.zero_variance: keep": advantage.zero_variance == "keep"}
        kept["objective.reduce: step"] = self.objective.reduce == "step"
        if rollout.refill and (setting := next((setting for setting, on in kept.items() if on), None)):
            return f"{setting} counts groups that rollout.refill puts others in place of; set one of them otherwise"
        return None

    def _immovable(self) -> str | None:
        """Why it can't be said how far the policy has moved, or None."""
        if not self.advantage.forgets_by_movement:
            return None
        whose = f"advantage.baseline: {self.advantage.baseline.type} measures how far the policy has moved on an earlier answer"
        if not self.policy.takes_answers:
            return f"{whose}, and this policy can't be given texts; set keep to one number"
        if self.rollout.context or self.rollout.wordings:
            return f"{whose}, so prompts must be asked the same each time; take out rollout.context or rollout.wordings"
        return None

    def _of_files(self) -> str | None:
        """Why samples that nobody made can't be trained, or None."""
        if not self.rollout.plan.columns:
            return None
        if self.policy.chooses_ids or not self.policy.posed_states:
            return "rollout.plan 'pairs' is for methods that noise pictures anew, by policy.matching; take dpo, raft or another"
        alone = {
            "credit": self.credit.type == Terminal().type,
            "transforms": not self.transforms,
            "sentinels": not (self.sentinels.panel or self.sentinels.drift),
            "rollout.allocate": self.rollout.allocate == "equal",
            "rollout.refill": not self.rollout.refill,
            "old": self.old is None,
            "fleet": not self.fleet.wanted,
        }
        if given := next((setting for setting, right in alone.items() if not right), None):
            return f"rollout.plan 'pairs' makes no samples and asks no reward, so {given} has nothing to work on; take it out"
        if self.evaluation and self.evaluation.prompts == self.rollout.prompts:
            return "evaluation.prompts are the pairs that are trained; name other prompts"
        return None

    def _of_gradients(self, shape: Shape) -> str | None:
        """Why the rewards' own gradient can't train, or None."""
        surrogate, plan = self.objective.surrogate, self.rollout.plan
        backward = any(shape.nodes[i].backward for i in shape.trained)
        if surrogate.needs_gradient and not (backward and not self.policy.posed_states):
            return (
                f"objective.surrogate '{surrogate.type}' trains by the gradient of the rewards: set rollout.plan.type to "
                "backward, and no policy.matching"
            )
        if backward and not surrogate.needs_gradient:
            return f"rollout.plan '{plan.type}' is for the gradient of the rewards: set objective.surrogate to reward"
        if not backward:
            return None
        trained = {label: reward for label, reward in self.rewards.items() if reward.weight or reward.gate}
        kl = self.objective.kl
        alone = {
            "credit": self.credit.type == Terminal().type,
            "transforms": not self.transforms,
            "advantage.modifiers": not self.advantage.modifiers,
            f"objective.kl.unit: {kl.unit}": not kl.coefficient or kl.unit == "velocity",
            "objective.auxiliary": not self.objective.auxiliary,
            "objective.decision_weights": not self.objective.decision_weights,
            "objective.weight": self.objective.weight == "one",
            f"objective.ratio: {self.objective.ratio.type}": self.objective.ratio.type == Plain().type,
            "selection": not self.selection,
            "rollout.refill": not self.rollout.refill,
            "old": self.old is None,
            "advantage.zero_variance: drop": self.advantage.zero_variance == "keep",
            **{f"rewards.{label}.gate": not reward.gate for label, reward in trained.items()},
            **{f"rewards.{label}.normalise": reward.normalise == "none" for label, reward in trained.items()},
            **{f"rewards.{label}.url": reward.url is None for label, reward in trained.items()},
            **{f"fleet.rewards.{label}": label not in self.fleet.rewards for label in trained},
        }
        if given := next((setting for setting, right in alone.items() if not right), None):
            return (
                f"rollout.plan '{plan.type}' trains by the gradient of the rewards alone: there can be no {given}; leave it out"
            )
        return None

    def _unjoined(self) -> str | None:
        """Why states of different steps can't be evaluated together, or None."""
        if not self.optimizer.join_steps:
            return None
        if self.objective.surrogate.needs_gradient:
            return "optimizer.join_steps: the gradient of the rewards goes from step to step; set it to false"
        complaint = self.policy.joining_complaint()
        return f"optimizer.join_steps: {complaint}; set it to false" if complaint else None

    def _ungraphed(self) -> str | None:
        """Why rollouts can't keep graphs for the update, or None."""
        steps, plan = self.optimizer.steps_per_update, self.rollout.plan
        evaluated_anew = {
            f"optimizer.steps_per_update: {steps}": steps > 1,
            "optimizer.join_steps": self.optimizer.join_steps,
            "selection": bool(self.selection),
            "old": self.old is not None,
            "fleet.rollout": self.fleet.rollout > 0,
            f"distributed.type: {self.distributed.type}": self.distributed.shares_out,
            "distributed.context": self.distributed.context > 1,
            "rollout.plan.completion: learned": isinstance(plan.completion, LearnedValues),
            f"rollout.plan: {plan.type}": self.objective.surrogate.needs_gradient or bool(plan.columns),
        }
        if self.rollout.keep != "graph" or not (setting := next((name for name, on in evaluated_anew.items() if on), None)):
            return None
        return (
            "rollout.keep: graph lets an update use what its rollout has evaluated here, with the weights of its only optimizer "
            f"step; with {setting} that is something else: set rollout.keep to device"
        )

    def _torn(self) -> str | None:
        """Why an objective that compares the samples of a group can't, or None."""
        rollout = self.rollout
        needed = rollout.group_size * max(1, self.policy.posed_together)
        if not self.objective.surrogate.compares_group:
            return None
        whose = f"objective.surrogate '{self.objective.surrogate.type}' compares the samples of a group, so"
        if rollout.group_size == 1:
            return f"{whose} rollout.group_size must be at least 2"
        if rollout.allocate != "equal":
            return f"{whose} they must fit into one batch, whose size is not known with rollout.allocate: {rollout.allocate}"
        if rollout.micro_batch < needed:
            return f"{whose} they must fit into one batch: set rollout.micro_batch={needed} or more"
        return None

    def shape(self, update: int = 0) -> Shape:
        """The shape of a group of an update, before any reward is known; where each prompt has a draw, that of prompt 0."""
        return self.shapes(update, {0: self.rollout.group_size})[0]

    def shapes(
        self, update: int, groups: Mapping[int, int], spread: Spread | None = None, draw: Key | None = None
    ) -> list[Shape]:
        """The shapes of an update's groups, whose sizes are given by the index of the prompt. `draw` keys what the plan draws,
        where that is not what training draws."""
        return self.rollout.shapes(self.policy.steps, update, (self.seed, *(draw or ("plan", update))), groups, spread)

    def with_plan(self, **changes: Any) -> "Config":
        """The same with another plan, not checked."""
        plan = self.rollout.plan.model_copy(update=changes)
        return self.model_copy(update={"rollout": self.rollout.model_copy(update={"plan": plan})})


def load_config(source: Words, overrides: Sequence[str] = ()) -> Config:
    """A sentence of files and names (`recipes.py`) with the `a.b=c` overrides, checked."""
    return read_recipe(source).checked(Config, overrides)


def dump(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
