"""The work of an update from what was measured on cards that did everything in turn: a run's folder, or what `flowgrpo bench` has
written."""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.config.bill import memory_of
from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.runs.folder import Row, RunFolder
from flowgrpo.training.fleet_size.work import Assumptions, UpdateWork

ALL = "rewards"
"""The label of all rewards together, where their seconds are not told apart."""
ROLLOUT = ("encode", "rollout", "decode")
"""What a rollout card does of the phases of a bench."""


@dataclass(frozen=True)
class SampleSeconds:
    """Of one card for a sample: rolled out, scored by label, learned."""

    rollout: float
    scoring: Mapping[str, float]
    learning: float


def seconds_of(source: str, processes: int) -> SampleSeconds:
    """`source` is the folder of a run that so many processes trained, or a bench.json. Errors: UserError."""
    path = Path(source)
    if path.is_dir():
        return of_run(RunFolder(path), processes)
    if path.is_file():
        return of_bench(path)
    raise UserError(f"there is no {source}; --fleet takes the folder of a run, or a bench.json of flowgrpo bench --out")


def of_run(run: RunFolder, processes: int) -> SampleSeconds:
    """The median of its updates, without those that trained nothing or compiled something, and without the first if there are
    others. The first process has as many blocks as any, and its seconds are those in the metrics."""
    config, rows = run.config, [row for row in run.metrics if "seconds/update" in row]
    rows = [row for row in rows[len(rows) > 1 :] if row["optimizer_steps"] and "compiling" not in row]
    if not rows:
        raise UserError(f"{run} has no update that trained and compiled nothing; train it for a few updates more")

    def median(phases: tuple[str, ...], blocks: tuple[int, ...]) -> float:
        return statistics.median(_of_sample(config, row, phases, blocks, processes) for row in rows)

    minibatches, whole = blocks_of(config), (sum(blocks_of(config)),)
    return SampleSeconds(
        median(("context", "rollout"), whole), {ALL: median(("reward",), whole)}, median(("update",), minibatches)
    )


def _of_sample(config: Config, row: Row, phases: tuple[str, ...], blocks: tuple[int, ...], processes: int) -> float:
    seconds = sum(row.get(f"seconds/{phase}", 0.0) for phase in phases)
    prompts = config.rollout.prompts_per_update + row.get("added_groups", 0)
    own = sum(-(-count // processes) for count in blocks) / sum(blocks)
    return seconds / (own * prompts * config.rollout.group_size)


def of_bench(path: Path) -> SampleSeconds:
    """Its `seconds_per_sample`, by phase; `reward` may also be a mapping of labels. Errors: UserError."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        said = None
    phases = said.get("seconds_per_sample") if isinstance(said, dict) else None
    if not isinstance(phases, dict) or not {"rollout", "reward", "update"} <= phases.keys():
        raise UserError(
            f"{path} has no seconds_per_sample with rollout, reward and update; take a bench.json of flowgrpo bench --out"
        )
    reward = phases["reward"]
    scoring = reward if isinstance(reward, dict) else {ALL: reward}
    rolled = {phase: phases.get(phase, 0.0) for phase in ROLLOUT}
    for name, value in {**rolled, **scoring, "update": phases["update"]}.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise UserError(f"{path}: seconds_per_sample.{name} is {value!r}, which is no number of seconds")
    return SampleSeconds(sum(rolled.values()), scoring, phases["update"])


def blocks_of(config: Config) -> tuple[int, ...]:
    """Blocks of each minibatch, if all prompts may share one."""
    minibatches = config.optimizer.minibatches(config.rollout.prompts_per_update)
    return tuple(-(-len(slots) // config.rollout.prompts_per_block) for slots in minibatches)


def work_of(config: Config, sample: SampleSeconds, assumed: Assumptions) -> UpdateWork:
    """Blocks are taken to be equally long. Errors: UserError where the model's size is not known."""
    blocks = blocks_of(config)
    samples = config.rollout.samples_per_update / sum(blocks)
    memory = memory_of(config, sum(blocks))
    kept, resting = _bytes(memory["rollout"], "latents", "predictions"), _bytes(memory["rollout"], "trained weights")
    return UpdateWork(
        blocks=blocks,
        rollout=samples * sample.rollout,
        scoring={label: samples * seconds for label, seconds in sample.scoring.items()},
        learning=samples * sample.learning,
        epochs=config.optimizer.epochs,
        block_bytes=kept if assumed.block_bytes is None else assumed.block_bytes,
        weight_bytes=resting,
        gradient_bytes=resting * (2 if config.sums_blocks else 1),
    )


def _bytes(parts: Mapping[str, Any], *names: str) -> float:
    return float(sum(parts.get(name, 0) for name in names))
