"""The configuration of a run: strict, frozen, free of torch.

It is read from a recipe (`recipes.py`); `a.b=c` overrides are applied on top.
Quantities are global: prompts per update, group size, steps. What one process does is derived from them.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from flowgrpo.config.recipes import Words, read_recipe
from flowgrpo.core.errors import user_code
from flowgrpo.core.plugins import nearest
from flowgrpo.core.section import Section
from flowgrpo.objective import AdvantageConfig, ObjectiveConfig
from flowgrpo.objective.credit import AnyCredit
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.objective.selection import AnySelection
from flowgrpo.policies import AnyPolicy
from flowgrpo.sampling.kernels.calibrated import Calibrated
from flowgrpo.sampling.plans import AnyPlan
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.shape import Shape

Rate = Annotated[float, Field(gt=0.0, le=1.0)]
"""A learning rate: about what a step of AdamW moves every weight by."""
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
MOST_NODES = 1_000_000
"""States of one group's tree."""


class RewardConfig(Section):
    """`use` names the reward: a shipped one (`scene:strict`), `module:attr`, `file.py:attr` or an entry point; or `url` names the
    server (`flowgrpo serve-reward`) that scores.

    `arguments` go to the constructor when `use` names a class. A call of a served reward, with all its retries, may take
    `timeout` seconds; `token` names the environment variable with the bearer token of its server. `weight` 0 measures without
    training on it. Before rewards are summed, `normalise: group` makes the scores of each group have mean 0 and standard
    deviation 1, then `clip` keeps them within [low, high]. A `gate` is not added: the sum is multiplied by it.
    """

    use: str | None = None
    url: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    timeout: PositiveFloat = 120.0
    token: str | None = None
    weight: float = 1.0
    normalise: Literal["none", "group"] = "none"
    clip: tuple[float, float] | None = None
    gate: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.use is None) == (self.url is None):
            raise ValueError("a reward has either 'use' (it runs in this process) or 'url' (a server)")
        if self.url is not None and self.arguments:
            raise ValueError("arguments are given to the server (`flowgrpo serve-reward NAME key=value`), not to its url")
        if self.use is not None and self.token:
            raise ValueError("a 'token' is sent to the server of a 'url'")
        return self

    @model_validator(mode="after")
    def _can_be_combined(self) -> Self:
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip = {list(self.clip)} must be [low, high] with low below high")
        if self.gate and self.weight != 1.0:
            raise ValueError("a gate multiplies the weighted sum of the others and has no weight of its own")
        if self.gate and self.normalise != "none":
            raise ValueError("a gate can't be normalised: half of its values would be negative")
        return self


class RolloutConfig(Section):
    """P = `prompts_per_update` prompts with G = `group_size` samples each; `micro_batch` states per network evaluation.

    `prompts` are a file, a generator such as `geneval:train?count=2000&seed=0`, or `hub:OWNER/NAME[/CONFIG]:COLUMN?split=train`.

    Prompts go through the model in blocks of whole groups, so results do not depend on the number of processes.
    """

    prompts: str
    prompts_per_update: Count
    group_size: Count
    micro_batch: Count = 64
    plan: AnyPlan = AllSteps()

    @property
    def prompts_per_block(self) -> int:
        return max(1, self.micro_batch // self.group_size)


class CalibrationConfig(Section):
    """Noise levels of kernel `calibrated` from reward statistics before training (DenseGRPO, arXiv 2601.20218).

    `rounds` of groups of `prompts` prompts; a step's level rises by `change` while the transitions that raise and that lower
    the value differ by less than the share `tolerance`, and falls else, within `least` .. `most`.
    """

    rounds: PositiveInt = 10
    prompts: PositiveInt = 12
    tolerance: float = Field(default=0.1, gt=0.0, lt=1.0)
    change: PositiveFloat = 0.05
    least: PositiveFloat = 0.1
    most: PositiveFloat = 1.2


class OptimizerConfig(Section):
    """AdamW. `steps_per_update` optimizer steps share a rollout, each on its own share of the prompts, `epochs` times over.

    The learning rate rises linearly over `warmup` updates, and falls linearly to 0 over `decay_over` updates. It depends on the
    number of the update only, so a run that is resumed with more `updates` is the one that had them from the start.
    What is trained has parts, the first words of its parameters' names: transformer, model, schedule. `rates` gives parts a
    learning rate other than `lr`. `turns` trains one part an update, in this order, over and over; all at once where empty.
    """

    lr: Rate
    rates: dict[str, Rate] = Field(default_factory=dict)
    turns: tuple[str, ...] = ()
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-4
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    steps_per_update: PositiveInt = 1
    epochs: PositiveInt = 1
    warmup: NonNegativeInt = 0
    decay_over: PositiveInt | None = None


class EmaConfig(Section):
    """Exponential moving average of the trained weights with decay min((1 + k) / (10 + k), decay) at optimizer step k."""

    decay: float = Field(default=0.9, ge=0.0, lt=1.0)


class EvaluationConfig(Section):
    """Held-out prompts, generated by the model's own sampler with `steps` steps (by default the policy's) and fixed seeds, before
    and after training.

    `metric` is the label of the reward that is reported. `every` updates in between on `limit_between` prompts (0: never).
    """

    prompts: str
    metric: str
    steps: PositiveInt
    limit: PositiveInt | None = None
    seed: Seed = 1000
    every: NonNegativeInt = 0
    limit_between: PositiveInt = 60
    batch: PositiveInt = 64
    pictures: NonNegativeInt = 24


class SentinelConfig(Section):
    """Watch for reward hacking, on rewards with weight 0: the first `window` updates against the last.

    A reward of the `panel` parts from what is trained when a trained reward has risen and the panel's has fallen, both by more
    than `sigmas` standard errors. A statistic has drifted when its mean has changed by more than its share in `drift`. Then the
    run says so, and ends there if `stop` is true. The same goes for `idle` updates in a row without an optimizer step.
    """

    panel: tuple[str, ...] = ()
    drift: dict[str, PositiveFloat] = Field(default_factory=dict)
    window: int = Field(default=10, ge=2)
    sigmas: PositiveFloat = 3.0
    idle: PositiveInt = 10
    stop: bool = False


class CheckpointConfig(Section):
    """When the state of a run is written, and how much of it is kept.

    After `every` updates, or once `minutes` have passed since the last, whichever comes first; and when the run ends or is
    stopped. The newest `keep_last` stay, and the `keep_best` of those that a held-out evaluation found best.
    """

    every: PositiveInt = 25
    minutes: PositiveFloat = 30.0
    keep_last: PositiveInt = 2
    keep_best: NonNegativeInt = 0


class Config(Section):
    """A run."""

    seed: Seed = 0
    updates: PositiveInt
    policy: AnyPolicy
    rollout: RolloutConfig
    rewards: dict[str, RewardConfig] = Field(min_length=1)
    credit: AnyCredit = Terminal()
    advantage: AdvantageConfig = AdvantageConfig()
    selection: tuple[AnySelection, ...] = ()
    calibration: CalibrationConfig | None = None
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig
    ema: EmaConfig | None = None
    evaluation: EvaluationConfig | None = None
    sentinels: Annotated[SentinelConfig, BeforeValidator(lambda given: {} if given is None else given)] = SentinelConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    rehearsal: tuple[str, ...] = ()
    """Of a run with `--tiny`: what stands in for what, so that none of its numbers is taken for more than it is."""
    output: str = "runs"
    tracker: Literal["none", "tensorboard", "wandb", "trackio", "mlflow", "swanlab", "comet_ml"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, data: Any) -> Any:
        if isinstance(data, dict) and "checkpoint_every" in data:
            message = "checkpoint_every is now checkpoints.every; the old name goes with the next version"
            warnings.warn(message, FutureWarning, stacklevel=2)
            data = {**data, "checkpoints": {**(data.get("checkpoints") or {}), "every": data["checkpoint_every"]}}
            del data["checkpoint_every"]
        return data

    @model_validator(mode="before")
    @classmethod
    def _evaluated_in_as_many_steps(cls, data: Any) -> Any:
        evaluation, policy = (data.get(key) if isinstance(data, dict) else None for key in ("evaluation", "policy"))
        if isinstance(evaluation, dict) and isinstance(policy, dict) and "steps" in policy:
            return {**data, "evaluation": {"steps": policy["steps"], **evaluation}}
        return data

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        with user_code("a part of this config"):
            complaint = next(filter(None, self._complaints()), None)
        if complaint:
            raise ValueError(complaint)
        return self

    def _complaints(self) -> Iterator[str | None]:
        """What does not fit together; each may rely on there being nothing before it."""
        rollout, plan, steps = self.rollout, self.rollout.plan, self.policy.steps
        if rollout.group_size < 2:
            yield "rollout.group_size must be at least 2: a group of 1 has nothing to compare with"
        if not plan.kernel.stochastic:
            yield f"rollout.plan.kernel '{plan.kernel.type}' is deterministic: there is nothing to train"
        if steps * rollout.group_size > MOST_NODES:
            yield f"policy.steps = {steps} x rollout.group_size = {rollout.group_size} is more than {MOST_NODES:,} states"
        if complaint := plan.complaint(steps, rollout.group_size):
            yield f"rollout.plan: {complaint}"
        if complaint := plan.kernel.complaint(steps):
            yield f"rollout.plan.{complaint}"
        if plan.completion and (complaint := plan.completion.complaint(steps)):
            yield f"rollout.plan: {complaint}"
        shape = plan.shape(steps, rollout.group_size, 0, np.random.default_rng(0))
        for kernel in filter(None, (node.kernel for node in shape.nodes)):
            if not isinstance(kernel, self.policy.kernels):
                yield f"kernel '{kernel.type}' can't move the states of policy '{self.policy.type}'"
        yield self.policy.complaint(shape)
        yield self.credit.complaint(shape)
        yield from (rule.complaint(shape) for rule in self.selection)
        if not self.policy.kernels.noise_scale and (setting := self.objective.needs_noise_scale):
            yield f"objective.{setting} needs a Gaussian law; the steps of policy '{self.policy.type}' have no noise scale"
        if self.objective.weight == "confidence" and (self.policy.kernels.noise_scale or self.policy.posed_states):
            yield "objective.weight: confidence needs ids that are drawn step by step, and policy.likelihood: trajectory"
        if self.calibration:
            yield self._calibration_complaint(shape)
        yield self._optimizer_complaint()
        yield self._evaluation_complaint()
        yield self._sentinel_complaint()
        if not any(reward.weight and not reward.gate for reward in self.rewards.values()):
            yield "every reward has weight 0 or is a gate: there is nothing to train on"

    def _optimizer_complaint(self) -> str | None:
        optimizer, prompts = self.optimizer, self.rollout.prompts_per_update
        if prompts % optimizer.steps_per_update:
            return f"optimizer.steps_per_update = {optimizer.steps_per_update} must divide rollout.prompts_per_update = {prompts}"
        if self.updates > (decay_over := optimizer.decay_over or self.updates):
            return (
                f"updates = {self.updates}, but the learning rate is 0 from update optimizer.decay_over = {decay_over} on; "
                f"set optimizer.decay_over={self.updates} too"
            )
        return None

    def _evaluation_complaint(self) -> str | None:
        evaluation = self.evaluation
        if self.checkpoints.keep_best and not (evaluation and evaluation.every):
            return "checkpoints.keep_best needs held-out scores between updates; set evaluation.every, or keep_best to 0"
        if evaluation and (complaint := self.policy.sampling_complaint(evaluation.steps)):
            return f"evaluation.steps = {evaluation.steps}: {complaint}"
        if evaluation and evaluation.metric not in self.rewards:
            return f"evaluation.metric '{evaluation.metric}' is not one of {sorted(self.rewards)}"
        return None

    def _sentinel_complaint(self) -> str | None:
        watched = {*self.sentinels.panel, *self.sentinels.drift}
        if unknown := sorted(watched - {*self.rewards}):
            return f"sentinels watch '{unknown[0]}', which is not one of the rewards ({nearest(unknown[0], self.rewards)})"
        if trained := sorted(label for label in watched if self.rewards[label].weight):
            return f"sentinels watch '{trained[0]}', which is trained on; give it weight 0, or watch another"
        return None

    def _calibration_complaint(self, shape: Shape) -> str | None:
        kernel = self.rollout.plan.kernel
        if not isinstance(kernel, Calibrated):
            return f"calibration finds the levels of kernel 'calibrated', but rollout.plan.kernel is '{kernel.type}'"
        return Gain().complaint(shape)

    @property
    def samples_per_update(self) -> int:
        return self.rollout.prompts_per_update * self.rollout.group_size


def load_config(source: Words, overrides: Sequence[str] = ()) -> Config:
    """A sentence of files and names (`recipes.py`) with the `a.b=c` overrides, checked."""
    return read_recipe(source).checked(Config, overrides)


def dump(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
