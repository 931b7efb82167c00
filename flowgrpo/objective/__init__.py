"""Objective: advantages, ratio, trust region, weights and KL -> loss. One implementation for all families."""

import warnings
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from flowgrpo.core.moved import GOES
from flowgrpo.core.section import Section
from flowgrpo.objective.auxiliary import AnyAuxiliary
from flowgrpo.objective.baseline import AnyBaseline, Remembering
from flowgrpo.objective.baseline.own import Own
from flowgrpo.objective.batch import KLUnit
from flowgrpo.objective.bounds import AnyBounds
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.decision_weight import AnyDecisionWeight
from flowgrpo.objective.modifier import AnyModifier
from flowgrpo.objective.ratio import AnyRatio
from flowgrpo.objective.ratio.plain import Plain
from flowgrpo.objective.surrogate import AnySurrogate
from flowgrpo.objective.surrogate.clip import Clip
from flowgrpo.sampling.kernels import KernelFamily

Scope = Literal["group", "group_step", "root", "root_step", "global"]
"""Transitions are compared within a group (one prompt), or those of a group at one step, from one start, from one start at one
step, or all of the update."""


Reduce = Literal["transition", "decision", "position", "step"]


class AdvantageConfig(Section):
    """A = (credit - mean) / max(std + eps, floor), clipped to +-clip.

    `mean` and `std` say over what, and `baseline` whose mean it is. mean `none` takes nothing off, for credit that is centred
    already; std `none` only centres.
    `ddof` 0 is the population std (flow_grpo), 1 the unbiased one (DanceGRPO).
    `std: global` is the deviation of the credit as it is (as published); any other is that of the centred credit. So `mean:
    group_step, std: group` gives all steps of a group one unit: a step that decides little keeps small advantages, where `std:
    group_step` makes those of every step alike in size, its noise too.
    `aggregate`: give credit to the weighted sum of the rewards, or to each reward and sum the advantages by weight.
    `zero_variance`: `drop` takes sets whose credit is constant out of the loss (with mean `none`: sets of `std` whose credit is
    0), `keep` leaves them in at their advantage (not 0 when the mean is global).
    `modifiers` change what has come out, one after the other.
    """

    baseline: AnyBaseline = Own()
    mean: Literal[Scope, "none"] = "group"
    std: Literal[Scope, "none"] = "group"
    ddof: Literal[0, 1] = 0
    eps: NonNegativeFloat = 1e-4
    floor: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = 5.0
    aggregate: Literal["rewards", "advantages"] = "rewards"
    zero_variance: Literal["drop", "keep"] = "drop"
    modifiers: tuple[AnyModifier, ...] = ()

    @model_validator(mode="after")
    def _has_a_baseline(self) -> Self:
        if self.mean == "none" and type(self.baseline) is not Own:
            raise ValueError(f"baseline '{self.baseline.type}' needs a mean to take off; set mean, e.g. to group")
        if self.baseline.brings_company and self.std not in ("none", self.mean):
            raise ValueError(f"baseline '{self.baseline.type}' joins one set; set std to none or to mean's '{self.mean}'")
        return self

    @model_validator(mode="after")
    def _remembers_prompts(self) -> Self:
        baseline = self.baseline
        if isinstance(baseline, Remembering) and (self.mean != "group" or self.std not in baseline.scales):
            raise ValueError(
                f"baseline '{baseline.type}' knows prompts: set mean to group, and std to {' or '.join(baseline.scales)}"
            )
        return self

    @property
    def tracks_value(self) -> bool:
        return isinstance(self.baseline, Remembering) and self.baseline.tracks_value

    @property
    def forgets_by_movement(self) -> bool:
        return isinstance(self.baseline, Remembering) and self.baseline.measures_movement

    def complaint(self, group_size: int, kernels: KernelFamily, makes: Sequence[str]) -> str | None:
        """Why groups of this size can't be compared, of samples of these kinds that such kernels make, or None."""
        if reader := next((rule.type for rule in self.modifiers if rule.reads_texts and "texts" not in makes), None):
            return f"advantage.modifiers: {reader} reads texts, and this policy makes {' or '.join(makes)}"
        if reader := next((rule.type for rule in self.modifiers if rule.needs_ids and kernels.noise_scale), None):
            return f"advantage.modifiers: {reader} needs the probability of ids; that of a Gaussian step is a density"
        if group_size > 1 or self.tracks_value:
            return None
        return (
            "rollout.group_size must be at least 2: a group of 1 has nothing to compare with, but for what "
            "advantage.baseline: tracker expects of its prompt"
        )


class KLConfig(Section):
    """Penalty `coefficient` x KL(policy || reference), where the KL is in this unit:

    `nats`: the exact KL per dimension, mean((mu - mu_ref)^2) / (2 tau^2); `nats_dt`: that times dt (flow_grpo's published beta);
    `velocity`: mean((v - v_ref)^2) (Flow-Factory's), for kernels with a prediction of velocity.
    """

    coefficient: NonNegativeFloat = 0.0
    unit: KLUnit = "nats"


class ObjectiveConfig(Section):
    """The loss of a transition: a surrogate of its ratio, weighted, and a KL penalty.

    `ratio` is of what probabilities, `surrogate` what is made small and what holds it back, and `clip` how far a ratio may go
    in the surrogates that clip: one number for both sides, [low, high], or bounds of another kind.
    `weight` `one`; `noise`: tau over its mean (TempFlow-GRPO, arXiv 2508.04324); `sensitivity`: tau / |g| over its mean, g the
    sensitivity of a step's mean to the prediction (Flash-GRPO, arXiv 2605.15980), which makes the gradients of all steps alike
    in size; or `confidence`: how likely the sampler's model found the id that was drawn (MDPO, arXiv 2508.13148, in its code).
    `auxiliary` terms are added to all that, whatever the rewards are.
    `decision_weights` weigh ids besides, by what the rest of the group has chosen.
    `reference`, of the KL and of surrogates that compare with one, is the policy before training, or the average of the trained
    weights that `ema` keeps, which follows them (AWM, arXiv 2509.25050).
    `reduce`: the loss is a mean over `transition`s, whose decisions share one vote; over `decision`s (the same where a
    transition is one decision, as with Gaussian laws); over `position`s, of which every transition has as many, so that an id
    counts the same in a short and in a long answer (Dr. GRPO, arXiv 2503.20783); or over `step`s, in each over the groups that
    have transitions there, in each over these: no step and no prompt counts more because more samples were spent on it.
    """

    ratio: AnyRatio = Plain()
    surrogate: AnySurrogate = Clip()
    clip: AnyBounds = Constant(low=1e-4, high=1e-4)
    weight: Literal["one", "noise", "sensitivity", "confidence"] = "one"
    reduce: Reduce = "transition"
    decision_weights: tuple[AnyDecisionWeight, ...] = ()
    kl: KLConfig = KLConfig()
    auxiliary: tuple[AnyAuxiliary, ...] = ()
    reference: Literal["start", "ema"] = "start"

    @property
    def needs_old_kl(self) -> bool:
        return self.ratio.needs_old_prediction or self.surrogate.needs_old_prediction

    @property
    def needs_old_prediction(self) -> bool:
        weighed = any(rule.needs_old_prediction for rule in self.decision_weights)
        return self.needs_old_kl or weighed or self.surrogate.needs_samples

    @property
    def needs_reference(self) -> bool:
        return self.kl.coefficient > 0 or self.surrogate.needs_reference

    @property
    def of_samples(self) -> list[AnyAuxiliary]:
        """The auxiliary terms that are of the policy's own samples."""
        return [term for term in self.auxiliary if not term.of_given]

    @property
    def needs_teacher(self) -> bool:
        return self.distils or self.surrogate.reads_teacher is not None

    @property
    def distils(self) -> bool:
        """Whether the steps of a teacher are learned."""
        return any(term.needs_teacher for term in self.auxiliary)

    @property
    def weighs_ids(self) -> str | None:
        """The setting by which ids of a transition count differently, or None."""
        used = {f"surrogate '{self.surrogate.type}'": self.surrogate.weighs_ids}
        used |= {f"decision_weights '{rule.type}'": True for rule in self.decision_weights}
        return next((setting for setting, on in used.items() if on), None)

    @property
    def needs_entropy(self) -> bool:
        return self.surrogate.needs_entropy or self.clip.needs_entropy

    @property
    def _needs_noise_scale(self) -> str | None:
        """The setting that only laws with a noise scale can serve, or None."""
        return next((setting for setting, on in self._of_noise("nats").items() if on), None)

    @property
    def _needs_step(self) -> str | None:
        """The setting that reads the noise that a step adds, or None."""
        used = {f"surrogate: {self.surrogate.type}": self.surrogate.needs_old_prediction, **self._of_noise("velocity")}
        return next((setting for setting, on in used.items() if on), None)

    def _of_noise(self, unit: KLUnit) -> dict[str, bool]:
        """Settings, and whether they read the noise scale of a step, where a KL in this unit alone does without."""
        return {
            f"ratio: {self.ratio.type}": self.ratio.needs_noise_scale,
            f"weight: {self.weight}": self.weight in ("noise", "sensitivity"),
            f"kl.unit: {self.kl.unit}": bool(self.kl.coefficient) and self.kl.unit != unit,
            **{f"auxiliary: {term.type} in {term.kl_unit}": term.kl_unit not in (None, unit) for term in self.auxiliary},
        }

    @property
    def _needs_ids(self) -> str | None:
        """The setting that only decisions among ids can serve, or None."""
        used = {f"ratio: {self.ratio.type}": self.ratio.joins_decisions}
        used[f"surrogate: {self.surrogate.type}"] = self.surrogate.joins_decisions or self.surrogate.needs_entropy
        used[f"clip: {self.clip.type}"] = self.clip.needs_ids or self.clip.needs_entropy
        return next((setting for setting, on in used.items() if on), None)

    def complaint(self, kernels: KernelFamily, posed: bool) -> str | None:
        """Why it can't train steps of these kernels, or None; `posed`: outcomes are scored as wholes."""
        if not kernels.noise_scale and (setting := self._needs_noise_scale):
            return f"objective.{setting} needs a Gaussian law; the steps of this policy's kernels have no noise scale"
        if kernels.noise_scale and (setting := self._needs_ids):
            return f"objective.{setting} needs transitions of several ids; a Gaussian step is one decision, with a density"
        if kernels.noise_scale and posed and (setting := self._needs_step):
            return f"objective.{setting} reads the noise of a step, and samples are noised anew; take another (kl.unit: velocity)"
        if self.surrogate.needs_samples and not (kernels.noise_scale and posed):
            return f"objective.surrogate '{self.surrogate.type}' trains finished samples of a pipeline: set policy.matching"
        if self.surrogate.needs_gradient and not kernels.noise_scale:
            return f"objective.surrogate '{self.surrogate.type}' needs latents: an id that was drawn lets no gradient through"
        if self.weight == "confidence" and (kernels.noise_scale or posed):
            return "objective.weight: confidence needs ids that are drawn step by step, and policy.likelihood: trajectory"
        return None

    @model_validator(mode="before")
    @classmethod
    def _with_trust(cls, data: object) -> object:
        """`trust: kl` and `kl_limit` are the surrogate `kl_mask` and its limit."""
        if not isinstance(data, dict) or not {"trust", "kl_limit"} & data.keys():
            return data
        warnings.warn(f"trust and kl_limit are now surrogate; the old names go with version {GOES}", FutureWarning, stacklevel=2)
        trust = data.get("trust")
        if trust not in (None, "clip", "kl"):
            raise ValueError(f"trust is now surrogate, and was clip or kl, not {trust}; set surrogate")
        rest = {name: value for name, value in data.items() if name not in ("trust", "kl_limit")}
        named = {"kl": "kl_mask", "clip": "clip", None: rest.get("surrogate", "clip")}[trust]
        surrogate = named if isinstance(named, dict) else {"type": named}
        if "kl_limit" in data and surrogate.get("type") == "kl_mask":
            surrogate = {**surrogate, "limit": data["kl_limit"]}
        return {**rest, "surrogate": surrogate}
