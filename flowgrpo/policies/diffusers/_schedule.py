"""Read the noise levels off a pipeline's scheduler, after the pipeline has set its timesteps."""

from collections.abc import Sequence
from math import cos, sin
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from flowgrpo.core.errors import UserError
from flowgrpo.policies.diffusers._tap import Span
from flowgrpo.sampling.levels import Parameterization, Schedule

PROBE = 4
"""Timesteps by which a scheduler is judged."""


def with_one_step_scheduler(pipe: DiffusionPipeline) -> None:
    """Schedulers that visit noise levels more than once (Heun, PNDM) give way to DDIM over the same noise schedule."""
    scheduler = pipe.scheduler
    if "alphas_cumprod" not in vars(scheduler) or _is_flow(scheduler):
        return
    scheduler.set_timesteps(PROBE)
    timesteps = scheduler.timesteps.tolist()
    if len(timesteps) != PROBE or sorted(set(timesteps), reverse=True) != timesteps:
        pipe.scheduler = DDIMScheduler.from_config(scheduler.config)


def read_schedule(scheduler: Any, span: Span) -> Schedule:
    """The levels before and after each of the loop's steps.

    Flow matching has x = (1 - sigma) x0 + sigma x1, other schedules alpha^2 + sigma^2 = 1 up to a scale: states of Euler-like
    schedulers (arXiv 2206.00364) are x0 + s x1 = sqrt(1 + s^2) (alpha x0 + sigma x1).
    """
    timesteps = tuple(float(t) for t in scheduler.timesteps[span.offset : span.offset + span.length])
    if scheduler.config.get("prediction_type") == "trigflow":
        return _trigonometric(scheduler, span)
    if _is_flow(scheduler):
        sigmas = _levels(scheduler.sigmas, span)
        if max(sigmas) > 1.0:
            return _exploding(sigmas, timesteps, "epsilon")
        if scheduler.config.get("invert_sigmas"):
            return Schedule(sigmas, tuple(1.0 - s for s in sigmas), timesteps, "data_velocity")
        return Schedule(tuple(1.0 - s for s in sigmas), sigmas, timesteps, "velocity")
    if "alphas_cumprod" not in vars(scheduler) and "sigmas" not in vars(scheduler):
        raise UserError(f"{type(scheduler).__name__} states neither sigmas nor alphas_cumprod, so its noise levels are unknown")
    kind: Parameterization = scheduler.config.prediction_type
    if "sigmas" not in vars(scheduler):
        return _preserving(_cumulative(scheduler, span), timesteps, kind)
    sigmas = _levels(scheduler.sigmas, span)
    if float(scheduler.init_noise_sigma) > 1.0:
        return _exploding(sigmas, timesteps, kind)
    return _preserving([1.0 / (1.0 + s * s) for s in sigmas], timesteps, kind)


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    states_alphas = "alphas_cumprod" in vars(scheduler) or "init_noise_sigma" in dir(scheduler)
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction" or not states_alphas


def _levels(sigmas: torch.Tensor, span: Span) -> tuple[float, ...]:
    return tuple(float(s) for s in sigmas[span.offset : span.offset + span.length + 1])


def _cumulative(scheduler: Any, span: Span) -> list[float]:
    """alpha^2 at each timestep of the loop, and where it ends."""
    timesteps = scheduler.timesteps[span.offset : span.offset + span.length + 1]
    squared = [float(scheduler.alphas_cumprod[int(t)]) for t in timesteps]
    if len(squared) == span.length:
        squared.append(float(vars(scheduler).get("final_alpha_cumprod", 1.0)))
    return squared


def _preserving(squared: Sequence[float], timesteps: tuple[float, ...], kind: Parameterization) -> Schedule:
    return Schedule(tuple(s**0.5 for s in squared), tuple((1.0 - s) ** 0.5 for s in squared), timesteps, kind)


def _exploding(sigmas: Sequence[float], timesteps: tuple[float, ...], kind: Parameterization) -> Schedule:
    scales = tuple((1.0 + s * s) ** 0.5 for s in sigmas)
    alphas = tuple(1.0 / scale for scale in scales)
    return Schedule(alphas, tuple(s / c for s, c in zip(sigmas, scales, strict=True)), timesteps, kind, scales)


def _trigonometric(scheduler: Any, span: Span) -> Schedule:
    """alpha = cos t, sigma = sin t, all times the standard deviation of the data (TrigFlow, arXiv 2410.11081)."""
    angles = [float(t) for t in scheduler.timesteps[span.offset : span.offset + span.length + 1]]
    alphas, sigmas = tuple(cos(t) for t in angles), tuple(sin(t) for t in angles)
    return Schedule(alphas, sigmas, tuple(angles[: span.length]), "v_prediction", noise=scheduler.config.sigma_data)
