"""Read the noise levels off a pipeline's scheduler, after the pipeline has set its timesteps."""

from typing import Any

from diffusers import DDIMScheduler, DiffusionPipeline

from flowgrpo.errors import UserError
from flowgrpo.sampling.levels import Parameterization, Schedule


def with_one_step_scheduler(pipe: DiffusionPipeline) -> None:
    """Diffusion pipelines with a multistep or stochastic scheduler get DDIM over the same noise schedule."""
    scheduler = pipe.scheduler
    if "alphas_cumprod" in vars(scheduler) and not isinstance(scheduler, DDIMScheduler):
        pipe.scheduler = DDIMScheduler.from_config(scheduler.config)


def read_schedule(scheduler: Any) -> Schedule:
    if isinstance(scheduler, DDIMScheduler):
        return _variance_preserving(scheduler)
    if "alphas_cumprod" not in vars(scheduler) and "sigmas" in vars(scheduler):
        return _flow(scheduler)
    raise UserError(f"{type(scheduler).__name__} is neither a flow-matching nor a DDIM-like scheduler")


def _flow(scheduler: Any) -> Schedule:
    sigmas = tuple(float(s) for s in scheduler.sigmas)
    timesteps = tuple(float(t) for t in scheduler.timesteps)
    return Schedule(tuple(1.0 - s for s in sigmas), sigmas, timesteps, "velocity")


def _variance_preserving(scheduler: DDIMScheduler) -> Schedule:
    squared = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]
    squared.append(float(scheduler.final_alpha_cumprod))
    kind: Parameterization = scheduler.config.prediction_type
    return Schedule(
        tuple(s**0.5 for s in squared),
        tuple((1.0 - s) ** 0.5 for s in squared),
        tuple(float(t) for t in scheduler.timesteps),
        kind,
    )
