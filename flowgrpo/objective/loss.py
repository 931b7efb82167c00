"""The loss: a chain of small pure functions on tensors over C transitions of D decisions each.

A suffix says the shape: `log_ratio_CD` is [C, D], `tau_C1` is [C, 1], what a transition's decisions share. Where both are
possible (a weight by transition or by decision) it is the larger. All are float32. `log_prob` quantities are in the policy's own
scale (a mean over dimensions for Gaussian laws, which make one decision a transition).
"""

from dataclasses import dataclass
from math import log1p

import torch
from torch import Tensor

from flowgrpo.objective import KLConfig, ObjectiveConfig


@dataclass(frozen=True)
class LossInputs:
    """What the objective sees of C transitions; none of it says what family the policy is of.

    `kl_old_CD` is KL(new || old) (needed by ratio `guard` and trust `kl`), `kl_reference_CD` KL(new || reference) in nats, or
    None. `tau_C1` and `dt_C1` are the noise scale and step size of the kernel, `g_C1` the sensitivity of the mean to the
    prediction.
    """

    log_prob_CD: Tensor
    log_prob_old_CD: Tensor
    advantage_C1: Tensor
    weight_CD: Tensor
    tau_C1: Tensor
    dt_C1: Tensor
    g_C1: Tensor
    kl_old_CD: Tensor | None = None
    kl_reference_CD: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """Results by decision, [C, D]: `loss` carries the gradient, the rest is for the metrics."""

    loss: Tensor
    log_ratio: Tensor
    clipped: Tensor
    kl: Tensor


def terms(batch: LossInputs, config: ObjectiveConfig) -> Terms:
    log_ratio_CD = _log_ratio(batch, config)
    surrogate_CD, clipped_CD = _surrogate(log_ratio_CD, batch, config)
    if config.ratio == "guard":
        surrogate_CD = surrogate_CD / batch.dt_C1
    kl_CD = _kl(batch, config.kl)
    loss_CD = batch.weight_CD * surrogate_CD + config.kl.coefficient * kl_CD
    return Terms(loss_CD, log_ratio_CD.detach(), clipped_CD, kl_CD.detach())


def _surrogate(log_ratio_CD: Tensor, batch: LossInputs, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    if config.trust == "clip":
        return clipped_surrogate(log_ratio_CD, batch.advantage_C1, *config.clip)
    assert batch.kl_old_CD is not None
    return kl_masked_surrogate(log_ratio_CD, batch.advantage_C1, batch.kl_old_CD.detach(), config.kl_limit)


def kl_masked_surrogate(log_ratio_CD: Tensor, advantage_C1: Tensor, kl_old_CD: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """(-A r with the masked ones detached, the mask): trust region by the exact KL instead of the ratio (Flow-DPPO)."""
    masked_CD = (kl_old_CD > limit) & (advantage_C1 * log_ratio_CD.detach() > 0)
    surrogate_CD = -advantage_C1 * torch.exp(log_ratio_CD)
    return torch.where(masked_CD, surrogate_CD.detach(), surrogate_CD), masked_CD


def clipped_surrogate(log_ratio_CD: Tensor, advantage_C1: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """(max(-A r, -A clip(r, 1 - low, 1 + high)), whether the clip holds the gradient back): PPO, arXiv 1707.06347, eq. 7.

    r - 1 is computed by expm1: clip ranges of 1e-6 are common here, and float32 resolves 1 + x only to 1e-7.
    """
    free_CD = -advantage_C1 * torch.expm1(log_ratio_CD)
    bound_CD = -advantage_C1 * torch.expm1(log_ratio_CD.clamp(log1p(-low), log1p(high)))
    return torch.maximum(free_CD, bound_CD) - advantage_C1, (bound_CD > free_CD).detach()


def _log_ratio(batch: LossInputs, config: ObjectiveConfig) -> Tensor:
    log_ratio_CD = batch.log_prob_CD - batch.log_prob_old_CD
    if config.ratio == "plain":
        return log_ratio_CD
    assert batch.kl_old_CD is not None
    return (log_ratio_CD + batch.kl_old_CD) * batch.tau_C1


def _kl(batch: LossInputs, config: KLConfig) -> Tensor:
    if batch.kl_reference_CD is None:
        return torch.zeros_like(batch.log_prob_CD)
    match config.unit:
        case "nats":
            return batch.kl_reference_CD
        case "nats_dt":
            return batch.kl_reference_CD * batch.dt_C1
        case "velocity":
            return batch.kl_reference_CD * 2.0 * batch.tau_C1**2 / batch.g_C1**2


def step_weights(tau: Tensor, g: Tensor, config: ObjectiveConfig) -> Tensor:
    """[C] weights of steps before they are divided by their mean: tau (TempFlow-GRPO, eq. 9), tau / |g| (Flash-GRPO), or 1."""
    match config.weight:
        case "noise":
            return tau
        case "sensitivity":
            return tau / g.abs()
    return torch.ones_like(tau)


def shares(decisions_CD: Tensor, votes_C: Tensor, config: ObjectiveConfig) -> Tensor:
    """[C, D] weights of the decisions in the loss, before it is divided by the number of what counts once.

    `decisions_CD` are 0 for those that count nothing, `votes_C` are the weights of transitions, 0 for those not trained.
    """
    weights_CD = decisions_CD * votes_C[:, None]
    return weights_CD if config.reduce == "decision" else weights_CD / decisions_CD.sum(1, keepdim=True).clamp(min=1.0)
