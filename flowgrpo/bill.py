"""The bill of a config: geometry, network evaluations, memory. Loads no weights."""

from typing import Any

from flowgrpo.config import Config
from flowgrpo.sampling.keys import numpy_generator
from flowgrpo.sampling.shape import Shape


def bill_of(config: Config, processes: int = 1) -> dict[str, Any]:
    """What an update costs; where the plan changes over training, its first update."""
    rollout, optimizer = config.rollout, config.optimizer
    rng = numpy_generator((config.seed, "plan", 0))
    shape = rollout.plan.shape(config.policy.steps, rollout.group_size, 0, rng)
    minibatch = rollout.prompts_per_update // optimizer.steps_per_update
    blocks = -(-minibatch // rollout.prompts_per_block)
    memory = config.policy.memory_bytes(min(rollout.micro_batch, rollout.prompts_per_block * rollout.group_size))
    per_group = shape.network_evaluations + config.policy.posed_states * len(shape.trained)
    evaluations = per_group * rollout.prompts_per_update
    return {
        "steps": config.policy.steps,
        "prompts_per_update": rollout.prompts_per_update,
        "group_size": rollout.group_size,
        "samples_per_update": config.samples_per_update,
        "samples_scored_per_update": len(shape.leaves) * rollout.prompts_per_update,
        "network_evaluations_per_group": per_group,
        "network_evaluations_per_sample": per_group / rollout.group_size,
        "trained_transitions_per_sample": len(shape.trained) / rollout.group_size,
        "network_evaluations_per_update": evaluations,
        "network_evaluations_before_training": _calibration(config, shape),
        "optimizer_steps_per_update": optimizer.steps_per_update * optimizer.epochs,
        "blocks_per_optimizer_step": blocks,
        "idle_processes": max(0, processes - blocks),
        "updates": config.updates,
        "peak_memory_bytes": sum(memory.values()),
        "memory_bytes": memory,
    }


def _calibration(config: Config, shape: Shape) -> int:
    calibration = config.calibration
    return shape.network_evaluations * calibration.rounds * calibration.prompts if calibration else 0
