"""Objective: advantages, ratio, trust region, weights and KL -> loss. One implementation for all families."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from flowgrpo.section import Section


class AdvantageConfig(Section):
    """A = (credit - mean) / max(std + eps, floor), clipped to +-clip.

    `mean` and `std` say over what: the `group` (one prompt's transitions), `group_step` (those at the same step), or
    `global` (all of the update); std `none` only centres. `ddof` 0 is the population std (flow_grpo), 1 the unbiased
    one (DanceGRPO).
    `aggregate`: normalise the weighted sum of the rewards, or normalise each reward and sum the advantages.
    `zero_variance`: `drop` takes groups whose credit is constant out of the loss, `keep` leaves them in at their
    advantage (not 0 when the mean is global).
    """

    mean: Literal["group", "group_step", "global"] = "group"
    std: Literal["group", "group_step", "global", "none"] = "group"
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
    `weight` `one`, or `noise`: tau over its mean (TempFlow-GRPO, arXiv 2508.04324).
    """

    clip: tuple[PositiveFloat, PositiveFloat] = (1e-4, 1e-4)
    ratio: Literal["plain", "guard"] = "plain"
    weight: Literal["one", "noise"] = "one"
    kl: KLConfig = KLConfig()

    @model_validator(mode="before")
    @classmethod
    def _symmetric_clip(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("clip"), int | float):
            return {**data, "clip": (data["clip"], data["clip"])}
        return data
