"""The bill of a config: geometry, network evaluations, memory. Loads no weights."""

from collections.abc import Iterator
from typing import Any

from flowgrpo.config.run import Config
from flowgrpo.config.teacher import teaching
from flowgrpo.config.tree import with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked
from flowgrpo.policies import Cost, Memory, Work
from flowgrpo.sampling.shape import Shape

FEW_STATES = 4
"""Fewer states than these in an evaluation leave a GPU waiting."""


def bill_of(config: Config, processes: int = 1) -> dict[str, Any]:
    """What an update costs; where the plan changes over training, its first update; where a visit may need less, at most."""
    rollout, optimizer = config.rollout, config.optimizer
    shape = config.shape()
    blocks, team = config.blocks_per_step, config.distributed.team(processes)
    memory = memory_of(config, processes)
    per_group = shape.network_evaluations + config.policy.posed_states * len(shape.trained)
    per_group += sum(turn.network_evaluations for turn in rollout.turns(config.policy.steps))
    per_group += 2 * config.advantage.forgets_by_movement
    evaluations = per_group * rollout.prompts_per_update
    return {
        "steps": config.policy.steps,
        "prompts_per_update": rollout.prompts_per_update,
        "group_size": rollout.group_size,
        "samples_per_update": rollout.samples_per_update,
        "samples_scored_per_update": len(shape.leaves) * rollout.prompts_per_update,
        "network_evaluations_per_group": per_group,
        "network_evaluations_per_sample": per_group / rollout.group_size,
        "trained_transitions_per_sample": _trained(config, shape) / rollout.group_size,
        "network_evaluations_per_update": evaluations,
        **({"network_evaluations_refilled_at_most": per_group * rollout.most_added} if rollout.most_added else {}),
        "network_evaluations_before_training": _calibration(config, shape),
        "optimizer_steps_per_update": optimizer.steps_per_update * optimizer.epochs,
        "blocks_per_optimizer_step": blocks,
        "idle_processes": max(0, processes - team * blocks),
        "updates": config.updates,
        "peak_memory_bytes": peak(memory),
        "memory_bytes": memory,
        **(
            {"copy_in_main_memory_bytes": copied}
            if (copied := config.policy.copied() // config.distributed.shared_by(processes))
            else {}
        ),
    }


def _trained(config: Config, shape: Shape) -> int:
    """Network evaluations of a group with a gradient."""
    return sum(len(shape.tail(i)) if shape.nodes[i].backward else _visits(config) for i in shape.trained)


def _visits(config: Config) -> int:
    """How many transitions score a trained state."""
    return max(1, config.policy.posed_states // max(1, config.policy.posed_together))


def memory_of(config: Config, processes: int = 1) -> Memory:
    """Of one of the processes, by phase and purpose."""
    rollout, objective = config.rollout, config.objective
    shape = config.shape()
    team = config.distributed.team(processes)
    prompts = -(-(rollout.prompts_per_update + rollout.most_added) * team // processes)
    if rollout.keep == "host":
        prompts = min(prompts, rollout.prompts_per_block)
    referenced = objective.needs_reference
    predicted = (objective.needs_old_prediction or config.reads_entropy) + (referenced and config.optimizer.epochs > 1)
    transitions = len(shape.trained) * _visits(config) * prompts
    most = rollout.micro_batch
    work = Work(
        states=most if config.optimizer.join_steps else min(most, rollout.prompts_per_block * rollout.group_size),
        samples=min(rollout.micro_batch, rollout.prompts_per_block * len(shape.leaves)),
        latents=(2 + predicted + config.keeps_against) * transitions,
        predictions=predicted * transitions * max(1, config.policy.posed_together),
        batches=config.blocks_per_step * config.optimizer.steps_per_update,
        averages=tuple(name for name, kept in (("ema", config.ema), ("old", config.old)) if kept),
        moment_bits=config.optimizer.bits,
        sums=config.sums_blocks,
        referenced=referenced,
        cards=config.distributed.shared_by(processes),
        team=team,
        graphed=transitions * max(1, config.policy.posed_together) if rollout.keep == "graph" else 0,
    )
    memory = config.policy.memory(work)
    if config.teacher is None:
        return memory
    teacher = sum(teaching(config).memory(Work(states=1, samples=1))["load"].values())
    return {phase: {**parts, "teacher": teacher} for phase, parts in memory.items()}


def peak(memory: Memory) -> int:
    return max(sum(purposes.values()) for purposes in memory.values())


def fitting(config: Config, budget: int, processes: int = 1) -> list[tuple[str, Cost, int]]:
    """Overrides that bring the peak below `budget` bytes, cheapest first, with what each costs and the peak that it leaves.

    Each helps a phase that does not fit; those that help none are left out. If the last peak is too high, nothing helps more.
    """
    chosen: list[tuple[str, Cost, int]] = []
    for switch, cost in _switches(config):
        memory = memory_of(config, processes)
        if peak(memory) <= budget:
            break
        if (candidate := possible(config, switch)) is None:
            continue
        after = memory_of(candidate, processes)
        too_large = {phase: sum(purposes.values()) for phase, purposes in memory.items() if sum(purposes.values()) > budget}
        if any(sum(after[phase].values()) < before for phase, before in too_large.items()):
            config = candidate
            chosen.append((switch, cost, peak(after)))
    return [row for i, row in enumerate(chosen) if not _replaced(row, chosen[i + 1 :])]


def _switches(config: Config) -> Iterator[tuple[str, Cost]]:
    """The policy's and smaller batches, cheapest first."""
    sizes = [config.rollout.micro_batch >> i for i in range(1, config.rollout.micro_batch.bit_length())]
    large: list[tuple[str, Cost]] = [(f"rollout.micro_batch={n}", "nothing") for n in sizes if n >= FEW_STATES]
    small: list[tuple[str, Cost]] = [(f"rollout.micro_batch={n}", "time") for n in sizes if n < FEW_STATES]
    switches = config.policy.switches
    yield from ((switch, cost) for switch, cost in switches.items() if cost == "nothing")
    yield from large
    if config.rollout.keep == "graph":
        yield "rollout.keep=device", "time"
    yield "rollout.keep=host", "time"
    yield from ((switch, cost) for switch, cost in switches.items() if cost == "time")
    yield from small
    yield "optimizer.exact_sums=false", "exactness"
    yield "optimizer.bits=8", "exactness"
    yield from ((switch, cost) for switch, cost in switches.items() if cost == "exactness")


def _replaced(row: tuple[str, Cost, int], later: list[tuple[str, Cost, int]]) -> bool:
    return any(other.partition("=")[0] == row[0].partition("=")[0] for other, _, _ in later)


def changed(config: Config, overrides: list[str]) -> Config:
    return checked(Config, with_overrides(config.model_dump(mode="json"), overrides), ", ".join(overrides))


def evaluating_anew(config: Config) -> Config:
    """Whose updates evaluate again what their rollouts have evaluated."""
    return changed(config, ["rollout.keep=device"]) if config.rollout.keep == "graph" else config


def possible(config: Config, switch: str) -> Config | None:
    """The config with an override, or None where it can't have it."""
    try:
        return changed(config, [switch])
    except UserError:
        return None


def _calibration(config: Config, shape: Shape) -> int:
    calibration = config.calibration
    return shape.network_evaluations * calibration.rounds * calibration.prompts if calibration else 0
