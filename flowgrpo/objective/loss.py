"""The loss: a chain of small pure functions on tensors over C transitions of D decisions each.

All tensors are [C, D], or [C, 1] for what a transition's decisions share, and float32. `log_prob` quantities are in the policy's
own scale (a mean over dimensions for Gaussian laws, which make one decision a transition).
"""

from dataclasses import dataclass
from math import log1p

import torch
from torch import Tensor

from flowgrpo.objective import KLConfig, ObjectiveConfig


@dataclass(frozen=True)
class LossInputs:
    """What the objective sees of C transitions; none of it says what family the policy is of.

    `kl_old` is KL(new || old) (needed by ratio `guard` and trust `kl`), `kl_reference` KL(new || reference) in nats, or None.
    `tau` and `dt` are the noise scale and step size of the kernel, `g` the sensitivity of the mean to the prediction.
    """

    log_prob: Tensor
    log_prob_old: Tensor
    advantage: Tensor
    weight: Tensor
    tau: Tensor
    dt: Tensor
    g: Tensor
    kl_old: Tensor | None = None
    kl_reference: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """Results by decision: `loss` carries the gradient, the rest is for the metrics."""

    loss: Tensor
    log_ratio: Tensor
    clipped: Tensor
    kl: Tensor


def terms(batch: LossInputs, config: ObjectiveConfig) -> Terms:
    log_ratio = _log_ratio(batch, config)
    surrogate, clipped = _surrogate(log_ratio, batch, config)
    if config.ratio == "guard":
        surrogate = surrogate / batch.dt
    kl = _kl(batch, config.kl)
    return Terms(batch.weight * surrogate + config.kl.coefficient * kl, log_ratio.detach(), clipped, kl.detach())


def _surrogate(log_ratio: Tensor, batch: LossInputs, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    if config.trust == "clip":
        return clipped_surrogate(log_ratio, batch.advantage, *config.clip)
    assert batch.kl_old is not None
    return kl_masked_surrogate(log_ratio, batch.advantage, batch.kl_old.detach(), config.kl_limit)


def kl_masked_surrogate(log_ratio: Tensor, advantage: Tensor, kl_old: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """(-A r with the masked ones detached, the mask): trust region by the exact KL instead of the ratio (Flow-DPPO)."""
    masked = (kl_old > limit) & (advantage * log_ratio.detach() > 0)
    surrogate = -advantage * torch.exp(log_ratio)
    return torch.where(masked, surrogate.detach(), surrogate), masked


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """(max(-A r, -A clip(r, 1 - low, 1 + high)), whether the clip holds the gradient back): PPO, arXiv 1707.06347, eq. 7.

    r - 1 is computed by expm1: clip ranges of 1e-6 are common here, and float32 resolves 1 + x only to 1e-7.
    """
    free = -advantage * torch.expm1(log_ratio)
    bound = -advantage * torch.expm1(log_ratio.clamp(log1p(-low), log1p(high)))
    return torch.maximum(free, bound) - advantage, (bound > free).detach()


def _log_ratio(batch: LossInputs, config: ObjectiveConfig) -> Tensor:
    log_ratio = batch.log_prob - batch.log_prob_old
    if config.ratio == "plain":
        return log_ratio
    assert batch.kl_old is not None
    return (log_ratio + batch.kl_old) * batch.tau


def _kl(batch: LossInputs, config: KLConfig) -> Tensor:
    if batch.kl_reference is None:
        return torch.zeros_like(batch.log_prob)
    match config.unit:
        case "nats":
            return batch.kl_reference
        case "nats_dt":
            return batch.kl_reference * batch.dt
        case "velocity":
            return batch.kl_reference * 2.0 * batch.tau**2 / batch.g**2


def noise_weights(tau: Tensor, config: ObjectiveConfig, mean_tau: float) -> Tensor:
    """Weights of mean 1 over the trained steps: tau / mean tau (TempFlow-GRPO, eq. 9), or 1."""
    return tau / mean_tau if config.weight == "noise" else torch.ones_like(tau)


def shares(decisions: Tensor, kept: Tensor, config: ObjectiveConfig) -> Tensor:
    """[C, D] weights of the decisions in the loss, before it is divided by the number of what counts once.

    `decisions` [C, D] are 0 for those that count nothing, `kept` [C] says which transitions are trained.
    """
    weights = decisions * kept[:, None]
    return weights if config.reduce == "decision" else weights / decisions.sum(1, keepdim=True).clamp(min=1.0)
