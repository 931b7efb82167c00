"""Objective: advantages, ratio, trust region, weights and KL -> loss. One implementation for all families."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from flowgrpo.core.section import Section
from flowgrpo.sampling.kernels import KernelFamily

Scope = Literal["group", "group_step", "root", "root_step", "global"]
"""Transitions are compared within a group (one prompt), or those of a group at one step, from one start, from one start at one
step, or all of the update."""


Reduce = Literal["transition", "decision", "step"]


class AdvantageConfig(Section):
    """A = (credit - mean) / max(std + eps, floor), clipped to +-clip.

    `mean` and `std` say over what. mean `none` takes nothing off, for credit that is centred already; std `none` only centres.
    `ddof` 0 is the population std (flow_grpo), 1 the unbiased one (DanceGRPO).
    `std: global` is the deviation of the credit as it is (as published); any other is that of the centred credit. So `mean:
    group_step, std: group` gives all steps of a group one unit: a step that decides little keeps small advantages, where `std:
    group_step` makes those of every step alike in size, its noise too.
    `aggregate`: give credit to the weighted sum of the rewards, or to each reward and sum the advantages by weight.
    `zero_variance`: `drop` takes sets whose credit is constant out of the loss (with mean `none`: sets of `std` whose credit is
    0), `keep` leaves them in at their advantage (not 0 when the mean is global).
    """

    mean: Literal[Scope, "none"] = "group"
    std: Literal[Scope, "none"] = "group"
    ddof: Literal[0, 1] = 0
    eps: NonNegativeFloat = 1e-4
    floor: NonNegativeFloat = 0.0
    clip: PositiveFloat | None = 5.0
    aggregate: Literal["rewards", "advantages"] = "rewards"
    zero_variance: Literal["drop", "keep"] = "drop"


class KLConfig(Section):
    """Penalty `coefficient` x KL(policy || reference), where the KL is in this unit:

    `nats`: the exact KL per dimension, mean((mu - mu_ref)^2) / (2 tau^2); `nats_dt`: that times dt (flow_grpo's published beta);
    `velocity`: mean((v - v_ref)^2) (Flow-Factory's), for kernels with a prediction of velocity.
    """

    coefficient: NonNegativeFloat = 0.0
    unit: Literal["nats", "nats_dt", "velocity"] = "nats"


class ObjectiveConfig(Section):
    """PPO with a clipped ratio r = exp(log_ratio).

    `clip` is [low, high] for r in [1 - low, 1 + high]; one number stands for both. `ratio` `plain`: log p_new - log p_old;
    `guard`: GRPO-Guard's normalised ratio (arXiv 2510.22319), (log p_new - log p_old + KL(new || old)) tau, with the
    loss divided by dt.
    `trust` `clip`, or `kl`: no clip, but no gradient where KL(new || old) > `kl_limit` nats per dimension and the update would
    move further away (A > 0 with r > 1, or A < 0 with r < 1): Flow-DPPO.
    `weight` `one`; `noise`: tau over its mean (TempFlow-GRPO, arXiv 2508.04324); `sensitivity`: tau / |g| over its mean, g the
    sensitivity of a step's mean to the prediction (Flash-GRPO, arXiv 2605.15980), which makes the gradients of all steps alike
    in size; or `confidence`: how likely the sampler's model found the id that was drawn (MDPO, arXiv 2508.13148, in its code).
    `reduce`: the loss is a mean over `transition`s, whose decisions share one vote; over `decision`s (the same where a
    transition is one decision, as with Gaussian laws); or over `step`s, in each over the groups that have transitions there, in
    each over these: no step and no prompt counts more because more samples were spent on it.
    """

    clip: tuple[PositiveFloat, PositiveFloat] = (1e-4, 1e-4)
    ratio: Literal["plain", "guard"] = "plain"
    trust: Literal["clip", "kl"] = "clip"
    kl_limit: PositiveFloat = 1e-5
    weight: Literal["one", "noise", "sensitivity", "confidence"] = "one"
    reduce: Reduce = "transition"
    kl: KLConfig = KLConfig()

    @property
    def needs_old_prediction(self) -> bool:
        return self.ratio == "guard" or self.trust == "kl"

    @property
    def needs_noise_scale(self) -> str | None:
        """The setting that only laws with a noise scale can serve, or None."""
        used = {"ratio: guard": self.ratio == "guard", f"weight: {self.weight}": self.weight in ("noise", "sensitivity")}
        used[f"kl.unit: {self.kl.unit}"] = bool(self.kl.coefficient) and self.kl.unit != "nats"
        return next((setting for setting, on in used.items() if on), None)

    def complaint(self, kernels: KernelFamily, posed: bool) -> str | None:
        """Why it can't train steps of these kernels, or None; `posed`: outcomes are scored as wholes."""
        if not kernels.noise_scale and (setting := self.needs_noise_scale):
            return f"objective.{setting} needs a Gaussian law; the steps of this policy's kernels have no noise scale"
        if self.weight == "confidence" and (kernels.noise_scale or posed):
            return "objective.weight: confidence needs ids that are drawn step by step, and policy.likelihood: trajectory"
        return None

    @model_validator(mode="before")
    @classmethod
    def _symmetric_clip(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("clip"), int | float):
            return {**data, "clip": (data["clip"], data["clip"])}
        return data
