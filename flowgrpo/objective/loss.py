"""The loss of C transitions of D decisions each; `batch.py` says what the suffixes mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowgrpo.objective import KLConfig, ObjectiveConfig
from flowgrpo.objective.batch import LossInputs


@dataclass(frozen=True)
class Terms:
    """Results by decision, [C, D]: `loss` carries the gradient, the rest is for the metrics."""

    loss: Tensor
    log_ratio: Tensor
    clipped: Tensor
    kl: Tensor
    auxiliary: Tensor


def terms(batch: LossInputs, config: ObjectiveConfig) -> Terms:
    log_ratio_CD = config.ratio.log_ratio(batch)
    surrogate_CD, held_CD = config.surrogate.loss(log_ratio_CD, batch, config.clip)
    kl_CD = _kl(batch, config.kl)
    loss_CD = batch.weight_CD * config.ratio.rescaled(surrogate_CD, batch) + config.kl.coefficient * kl_CD
    auxiliary_CD = torch.zeros_like(batch.log_prob_CD)
    for term in config.of_samples:
        auxiliary_CD = auxiliary_CD + term.coefficient * term.loss(batch)
    return Terms(loss_CD + auxiliary_CD, log_ratio_CD.detach(), held_CD, kl_CD.detach(), auxiliary_CD.detach())


def _kl(batch: LossInputs, config: KLConfig) -> Tensor:
    if batch.kl_reference_CD is None:
        return torch.zeros_like(batch.log_prob_CD)
    return batch.in_unit(batch.kl_reference_CD, config.unit)


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
    if config.reduce == "decision":
        return weights_CD
    if config.reduce == "position":
        return weights_CD / decisions_CD.shape[1]
    return weights_CD / decisions_CD.sum(1, keepdim=True).clamp(min=1.0)
