"""The sections of a run's config. Each checks itself, and by its `complaint` whether it fits what it is used with."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key, numpy_generator
from flowgrpo.core.plugins import nearest
from flowgrpo.core.section import Section, or_else
from flowgrpo.data.context import AnyContext
from flowgrpo.data.prompt_sampler import AnyPromptSampler
from flowgrpo.data.prompt_sampler.shuffled import Shuffled
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.policies import PolicyConfig
from flowgrpo.sampling.completion.learned import LearnedValues
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.kernels.calibrated import Calibrated
from flowgrpo.sampling.plans import AnyPlan, Draw, Spread
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.sampling.shape import Shape

Rate = Annotated[float, Field(gt=0.0, le=1.0)]
"""A learning rate: about what a step of AdamW moves every weight by."""
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Addresses = Annotated[
    str | Annotated[tuple[str, ...], Field(min_length=1)] | None,
    or_else("must be the address of a server, or a list of the addresses of several"),
]
"""Of one server, or of several."""
MOST_NODES = 1_000_000
"""States of one group's tree."""


class RewardConfig(Section):
    """`use` names the reward: a shipped one (`scene:strict`), `module:attr`, `file.py:attr` or an entry point; or `url` names the
    server (`flowgrpo serve-reward`) that scores, or several of the same reward, between which requests are shared out.

    `arguments` go to the constructor when `use` names a class. A call of a served reward, with all its retries, may take
    `timeout` seconds; `token` names the environment variable with the bearer token of its server. `weight` 0 measures without
    training on it. Before rewards are summed, `normalise: group` makes the scores of each group have mean 0 and standard
    deviation 1, then `clip` keeps them within [low, high]. A `gate` is not added: the sum is multiplied by it.
    With `beside` a slow reward of this process scores while the next samples are made, as a served one does, in a thread of its
    own: it must not draw from torch's global random state, change torch's settings, or need the main thread.
    """

    use: str | None = None
    url: Addresses = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    timeout: PositiveFloat = 120.0
    token: str | None = None
    weight: float = 1.0
    normalise: Literal["none", "group"] = "none"
    clip: tuple[float, float] | None = None
    gate: bool = False
    beside: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.use is None) == (self.url is None):
            raise ValueError("a reward has either 'use' (it runs in this process) or 'url' (a server)")
        if self.url is not None and self.arguments:
            raise ValueError("arguments are given to the server (`flowgrpo serve-reward NAME key=value`), not to its url")
        if self.use is not None and self.token:
            raise ValueError("a 'token' is sent to the server of a 'url'")
        if self.url is not None and self.beside:
            raise ValueError("'beside' is for rewards of this process; a server always scores beside the rollout")
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

    @property
    def where(self) -> str:
        """What names it."""
        return self.use or (self.url if isinstance(self.url, str) else ", ".join(self.url or ()))

    def complaint(self, label: str, group_size: int) -> str | None:
        """Why it can't score groups of this size, or None."""
        if self.normalise == "group" and group_size == 1:
            return f"rewards.{label}.normalise: group makes the score of a sample that is alone in its group 0; set it to none"
        return None


Keep = Literal["device", "host", "graph"]


class RolloutConfig(Section):
    """P = `prompts_per_update` prompts with G = `group_size` samples each; `micro_batch` states per network evaluation.

    `prompts` are a file, a generator such as `geneval:train?count=2000&seed=0`, or `hub:OWNER/NAME[/CONFIG]:COLUMN?split=train`.
    `prompt_sampler` says which of them an update has.

    `refill`: in place of groups whose samples all earn the same, an update rolls out groups of other prompts, until P groups
    teach something or `refill` x P groups have been added (DAPO's dynamic sampling, arXiv 2503.14476). Their network evaluations
    count.

    `allocate: adaptive` gives prompts whose rewards differed more in earlier updates more samples and the others fewer, G on
    average; `objective.reduce: step` makes up for it in the loss. `interval` gives them where they narrow the interval of a
    prompt's mean reward most (XRPO, arXiv 2510.06672). With several `phases` it knows an update by itself: the first of so many
    rounds of samples is the same for all prompts, and each other one goes by the rewards so far.

    With a `context` a few samples of each prompt are made first, and the group answers what the context makes of them. Under the
    column `wordings` of its row a prompt has other texts that ask the same: the samples of a group are asked these and the prompt
    itself in turn.

    Prompts go through the model in blocks of whole groups, so results do not depend on the number of processes. States wait for
    the update on the device, or where `keep` says `host` in main memory. With `graph` what the network said of trained states
    waits too, with its graph: the first optimizer step evaluates nothing again, and comes to the same bits.
    """

    prompts: str
    prompts_per_update: Count
    group_size: Count
    micro_batch: Count = 64
    keep: Keep = "device"
    allocate: Literal["equal", "adaptive", "interval"] = "equal"
    phases: PositiveInt = 1
    prompt_sampler: AnyPromptSampler = Shuffled()
    refill: NonNegativeFloat = 0.0
    plan: AnyPlan = AllSteps()
    context: AnyContext | None = None
    wordings: str | None = None

    @model_validator(mode="after")
    def _has_something_to_train(self) -> Self:
        if not (self.plan.kernel.stochastic or self.plan.trains_outcomes):
            raise ValueError(f"plan.kernel '{self.plan.kernel.type}' is deterministic: there is nothing to train")
        return self

    @model_validator(mode="after")
    def _allocates_once(self) -> Self:
        if self.allocate != "equal" and isinstance(self.plan, Comb) and self.plan.allocate == "adaptive":
            raise ValueError(
                "allocate and plan.allocate can't both move samples: prompts with more samples would count more at the steps "
                "that are rarely drawn; set one of them to equal"
            )
        return self

    def turns(self, steps: int) -> list[Shape]:
        """Of a prompt, all that there may be before its group is rolled out; no state of them is trained."""
        plan = AllSteps(kernel=self.plan.kernel, shared_start=self.plan.shared_start)
        turns = self.context.turns if self.context else ()
        shapes = [plan.shape(Draw(steps, turn.samples, 0, numpy_generator(("tries",)))) for turn in turns]
        return [Shape(tuple(replace(node, trained=False) for node in shape.nodes)) for shape in shapes]

    def granule(self, steps: int) -> int:
        """Group sizes are multiples of this: the least that the plan can work with."""
        return next(size for size in range(1, self.group_size + 1) if self.plan.complaint(steps, size) is None)

    @property
    def most_added(self) -> int:
        """The groups that `refill` may add to an update."""
        return ceil(self.refill * self.prompts_per_update)

    @property
    def prompts_per_block(self) -> int:
        return max(1, self.micro_batch // self.group_size)

    @property
    def samples_per_update(self) -> int:
        return self.prompts_per_update * self.group_size

    def shapes(self, steps: int, update: int, key: Key, groups: Mapping[int, int], spread: Spread | None = None) -> list[Shape]:
        """Of the groups of an update: `groups` are their sizes by the index of the prompt; `key` is of what the plan draws.

        Groups of one size share a shape unless the plan draws for each prompt.
        """

        def draw(size: int, key: Key) -> Shape:
            return self.plan.shape(Draw(steps, size, update, numpy_generator(key), spread))

        if self.plan.drawn_for == "prompt":
            return [draw(size, (*key, prompt)) for prompt, size in groups.items()]
        shared = {size: draw(size, key) for size in {*groups.values()}}
        return [shared[size] for size in groups.values()]

    def sampling_complaint(self, tracks_value: bool) -> str | None:
        """Why prompts and their samples can't be drawn like this, or None; `tracks_value`: prompts' values are known."""
        if self.prompt_sampler.needs_values and not tracks_value:
            return (
                f"rollout.prompt_sampler: {self.prompt_sampler.type} reads what prompts are worth; set advantage.baseline to "
                "tracker, which follows that"
            )
        if self.group_size == 1 and self.allocate != "equal":
            return f"rollout.allocate: {self.allocate} moves samples, and a group of 1 has none to spare; set it to equal"
        return None

    def complaint(self, steps: int) -> str | None:
        """Why there can't be rollouts of this many steps, or None."""
        if steps * self.group_size > MOST_NODES:
            return f"policy.steps = {steps} x rollout.group_size = {self.group_size} is more than {MOST_NODES:,} states"
        if complaint := self.plan.complaint(steps, self.group_size):
            return f"rollout.plan: {complaint}"
        if complaint := self.plan.kernel.complaint(steps):
            return f"rollout.plan.{complaint}"
        if self.plan.completion and (complaint := self.plan.completion.complaint(steps)):
            return f"rollout.plan: {complaint}"
        if self.phases > 1 and (complaint := self._phases_complaint(steps)):
            return f"rollout.phases {complaint}"
        return self._words_complaint(steps) if self.wordings else None

    def _phases_complaint(self, steps: int) -> str | None:
        """Why the samples of an update can't be made in several rounds, or None."""
        if self.allocate != "interval":
            return "says in how many rounds samples are allocated by intervals; set rollout.allocate=interval, or leave it out"
        if self.plan.completion:
            return "joins trees whose states are not valued on their way; set rollout.plan.completion=null"
        if self.plan.shared_start:
            return "would pay for a shared start in every round; set rollout.plan.shared_start=false"
        return None

    def _words_complaint(self, steps: int) -> str | None:
        """Why the samples of a group can't be asked in different words, or None."""
        why = "rollout.wordings asks each sample of a group otherwise"
        if self.context or self.plan.columns:
            return f"{why}; take out rollout.context, or a plan that makes no samples"
        shape = self.plan.shape(Draw(steps, self.group_size, 0, numpy_generator(("wordings",))))
        if len({*shape.roots}) == 1 < self.group_size:
            return f"{why}, and all have one start; set rollout.plan.shared_start=false"
        return None


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

    def complaint(self, kernel: Kernel, shape: Shape) -> str | None:
        """Why the levels of this kernel can't be calibrated by rollouts of this shape, or None."""
        if not isinstance(kernel, Calibrated):
            return f"calibration finds the levels of kernel 'calibrated', but rollout.plan.kernel is '{kernel.type}'"
        return Gain().complaint(shape)


class OptimizerConfig(Section):
    """AdamW. `steps_per_update` optimizer steps share a rollout, each on its own share of the prompts, `epochs` times over. Its
    moments have 32 `bits`, or 8 by blocks of 256 numbers (arXiv 2110.02861, by torchao); tensors of fewer than 4096 keep 32.

    The learning rate rises linearly over `warmup` updates, and falls linearly to 0 over `decay_over` updates. It depends on the
    number of the update only, so a run that is resumed with more `updates` is the one that had them from the start.

    `exact_sums`: the gradients of the blocks of prompts that share a step add up in float64, so that their sum is the same
    however many processes share the blocks. false saves 8 bytes of each trained weight, and sums depend on their order.

    `join_steps`: states of different steps are evaluated together, as many as `rollout.micro_batch`. Then the first log-ratio is
    no exact 0 but the rounding of larger batches. It is faster where a step has few states: small groups, trees, combs.
    """

    lr: Rate
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-4
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    steps_per_update: PositiveInt = 1
    epochs: PositiveInt = 1
    exact_sums: bool = True
    join_steps: bool = False
    bits: Literal[8, 32] = 32
    warmup: NonNegativeInt = 0
    decay_over: PositiveInt | None = None

    def minibatches(self, prompts: int, more: int = 0) -> list[list[int]]:
        """Of an update's prompts, by number: those that share an optimizer step. `more` came later, and go to all in turn."""
        size = prompts // self.steps_per_update
        return [
            [*range(i * size, (i + 1) * size), *range(prompts + i, prompts + more, self.steps_per_update)]
            for i in range(self.steps_per_update)
        ]

    def share_of_rate(self, update: int) -> float:
        """What warm-up and decay leave of the learning rate in an update."""
        share = min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0
        return share * (1.0 - update / self.decay_over) if self.decay_over else share

    def complaint(self, prompts: int, updates: int) -> str | None:
        """Why it can't train so many updates of so many prompts, or None."""
        if prompts % self.steps_per_update:
            return f"optimizer.steps_per_update = {self.steps_per_update} must divide rollout.prompts_per_update = {prompts}"
        if updates > (decay_over := self.decay_over or updates):
            return (
                f"updates = {updates}, but the learning rate is 0 from update optimizer.decay_over = {decay_over} on; "
                f"set optimizer.decay_over={updates} too"
            )
        return None


class EmaConfig(Section):
    """Exponential moving average of the trained weights with decay min((1 + k) / (10 + k), decay) at optimizer step k, or, with a
    `rate`, min(rate x k, decay) (AWM, arXiv 2509.25050)."""

    decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    rate: NonNegativeFloat | None = None

    def decay_at(self, step: int) -> float:
        return min((1 + step) / (10 + step) if self.rate is None else self.rate * step, self.decay)


class OldConfig(Section):
    """Weights that make the samples and lag behind the trained ones (DiffusionNFT, arXiv 2509.16117).

    After update k = 1, 2 .. they are d times what they were plus 1 - d times the trained ones, with d = min(`start` + `rate` x
    max(k - `wait`, 0), `most`).
    """

    start: float = Field(default=0.0, ge=0.0, lt=1.0)
    rate: NonNegativeFloat = 0.001
    wait: NonNegativeInt = 0
    most: float = Field(default=0.5, ge=0.0, lt=1.0)

    def decay_at(self, update: int) -> float:
        return min(self.start + self.rate * max(update - self.wait, 0), self.most)


class TeacherConfig(Section):
    """A frozen policy for `objective.auxiliary` to ask: that of a run's `checkpoint`, with its average where it keeps one, or
    else the run's own before training. `policy` has what of the section `policy` is other than there: a model, or guidance."""

    checkpoint: str | None = None
    policy: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_another(self) -> Self:
        if self.checkpoint is None and not self.policy:
            raise ValueError(
                "a teacher is a 'checkpoint' of a run, or differs from the run's own 'policy' in something; say which"
            )
        return self


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

    def complaint(self, rewards: Mapping[str, RewardConfig], policy: PolicyConfig) -> str | None:
        """Why this policy can't be evaluated by these rewards, or None."""
        if complaint := policy.sampling_complaint(self.steps):
            return f"evaluation.steps = {self.steps}: {complaint}"
        return None if self.metric in rewards else f"evaluation.metric '{self.metric}' is not one of {sorted(rewards)}"


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

    def complaint(self, rewards: Mapping[str, RewardConfig]) -> str | None:
        """Why these rewards can't be watched, or None."""
        watched = {*self.panel, *self.drift}
        if unknown := sorted(watched - {*rewards}):
            return f"sentinels watch '{unknown[0]}', which is not one of the rewards ({nearest(unknown[0], rewards)})"
        if trained := sorted(label for label in watched if rewards[label].weight):
            return f"sentinels watch '{trained[0]}', which is trained on; give it weight 0, or watch another"
        return None


class RewardActors(Section):
    """So many processes have this reward, each with `gpus` cards; null: one where the trainer has one."""

    actors: PositiveInt = 1
    gpus: NonNegativeFloat | None = None


def _actors(given: Any) -> Any:
    return {"actors": given} if isinstance(given, int) else given


class FleetConfig(Section):
    """Other processes, on this machine or many (Ray), that do a trainer's work.

    `rollout` processes, each with a policy on `gpus` cards (null: one where the trainer has one), roll groups out; with 0 the
    trainer does. `rewards`, by label, have processes of their own: a number of them, or `{actors: 2, gpus: 0.5}`. Results are
    those of a lone process. With `lag` 1 the rollout of an update runs beside the learning of the one before it, with weights
    that are an update old. A process that has not answered for `patience` seconds is given up, and its work goes to another.
    """

    rollout: NonNegativeInt = 0
    rewards: dict[str, Annotated[RewardActors, BeforeValidator(_actors)]] = Field(default_factory=dict)
    lag: Literal[0, 1] = 0
    gpus: NonNegativeFloat | None = None
    patience: PositiveFloat = 600.0

    @property
    def wanted(self) -> bool:
        return bool(self.rollout or self.rewards)

    def lacks(self, trainers: int) -> str | None:
        """What there is too little of for so many trainers, each of which has its share, or None."""
        counts = {"rollout": self.rollout or trainers, **{f"rewards.{label}": one.actors for label, one in self.rewards.items()}}
        few = next((key for key, count in counts.items() if count < trainers), None)
        return few and f"fleet.{few} must be at least {trainers}: each of the {trainers} processes that train has its share"

    def complaint(self, rewards: Mapping[str, RewardConfig], rollout: RolloutConfig) -> str | None:
        """Why there can't be such a fleet, or None."""
        if self.lag and not self.rollout:
            return "fleet.lag: 1 rolls out beside the learning, which needs processes that do; set fleet.rollout to 1 or more"
        if unknown := next((label for label in self.rewards if label not in rewards), None):
            return f"fleet.rewards.{unknown} is no reward ({nearest(unknown, rewards)})"
        if served := next((label for label in self.rewards if rewards[label].url is not None), None):
            return f"fleet.rewards.{served} has a server of its own (url); take it out of fleet.rewards"
        early = "fleet.lag: 1 rolls out before the update before is learned"
        waits = {
            "rollout.refill": bool(rollout.refill),
            "rollout.phases": rollout.phases > 1,
            "rollout.context": rollout.context is not None,
            "rollout.plan.completion: learned": isinstance(rollout.plan.completion, LearnedValues),
        }
        if self.lag and (setting := next((setting for setting, on in waits.items() if on), None)):
            return f"{early}, and {setting} waits for that; set one of them otherwise"
        return None


class DistributedConfig(Section):
    """Where the weights of a training lie when several processes train (torchrun, accelerate).

    `replicate`: each has all of them. `shard`: each has a part of every block of the network, of its gradients and of the
    optimizer's state, and a block whole while it is computed. `hybrid`: parts within `cards` processes that are neighbours, such
    as those of a machine, and copies of them on the others. Rollouts are the same bit for bit, updates to rounding.

    `context` neighbours are a team, which computes each sequence together: a process has all weights, and a part of the tokens of
    a long clip. Rollouts and updates are the same to rounding.
    """

    type: Literal["replicate", "shard", "hybrid"] = "replicate"
    cards: Annotated[int, Field(ge=2)] | None = None
    context: PositiveInt = 1

    @property
    def shares_out(self) -> bool:
        return self.type != "replicate"

    def shared_by(self, processes: int) -> int:
        """How many of these processes share the weights out. Errors: UserError where they are no multiple of `cards`."""
        return _together("cards", self.cards or processes, processes) if self.shares_out else 1

    def team(self, processes: int) -> int:
        """How many of these processes compute a sequence together. Errors: UserError where they are no multiple of `context`."""
        return _together("context", self.context, processes)

    def splitting_complaint(self, policy: PolicyConfig, fleet: FleetConfig) -> str | None:
        """Why processes can't compute a sequence together, or None."""
        if self.context == 1:
            return None
        if self.shares_out:
            return f"distributed.context does not go with distributed.type: {self.type}; set it to 1, or the type to replicate"
        if fleet.wanted:
            return "a fleet's processes belong to one trainer each, and distributed.context makes teams of those; set it to 1"
        if reason := policy.unsplittable():
            return f"distributed.context: {reason}"
        return None

    def complaint(self, policy: PolicyConfig, optimizer: OptimizerConfig) -> str | None:
        """Why the weights can't lie so, or None."""
        if (self.type == "hybrid") != (self.cards is not None):
            return (
                "distributed.cards is how many processes share the weights out, where distributed.type is hybrid and only there"
            )
        if not self.shares_out:
            return None
        if reason := policy.unshardable():
            return f"distributed.type: {self.type}: {reason}"
        if optimizer.bits != 32:
            return "optimizer.bits: 8 has one scale for 256 moments, which can't be shared out; set it to 32"
        return None


def _together(key: str, number: int, processes: int) -> int:
    """So many of the processes, or a lone one. Errors: UserError where they are no multiple of it."""
    if processes == 1:
        return 1
    if processes % number:
        raise UserError(f"distributed.{key} = {number}, and {processes} processes are no multiple of it; set another number")
    return number


class CheckpointConfig(Section):
    """When the state of a run is written, and how much of it is kept.

    After `every` updates, or once `minutes` have passed since the last, whichever comes first; and when the run ends or is
    stopped. The newest `keep_last` stay, and the `keep_best` of those that a held-out evaluation found best. `background`:
    training goes on while it is written, and main memory holds a copy of it meanwhile.
    """

    every: PositiveInt = 25
    minutes: PositiveFloat = 30.0
    keep_last: PositiveInt = 2
    keep_best: NonNegativeInt = 0
    background: bool = True

    def complaint(self, evaluation: EvaluationConfig | None) -> str | None:
        """Why the best can't be told by this evaluation, or None."""
        if self.keep_best and not (evaluation and evaluation.every):
            return "checkpoints.keep_best needs held-out scores between updates; set evaluation.every, or keep_best to 0"
        return None
