"""`flowgrpo plan CONFIG... [a.b=c ...] [--processes N] [--memory GIB] [--fleet RUN_OR_JSON [--cards N ...] [--assume KEY=VALUE]]
[--measure] [--json]`."""

import argparse
import json
from typing import Any

from flowgrpo.cli._numbers import positive, positive_number
from flowgrpo.config.bill import bill_of, changed, fitting, memory_of
from flowgrpo.config.recipes import HELP
from flowgrpo.config.run import Config, load_config
from flowgrpo.config.tree import with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked
from flowgrpo.policies import Cost, Memory
from flowgrpo.policies.prompt_check import check_files, tell

GIB = 2**30
CURES = {
    "graphs": "set rollout.keep=device",
    "latents": "set rollout.keep=host, lower rollout.prompts_per_update, or share the work among processes (--processes)",
    "optimizer": "train less of it (policy.lora)",
    "trained weights": "train less of it (policy.lora)",
}
"""By the largest part of what does not fit."""
CARDS = (8, 64, 512)
COSTS: dict[Cost, str] = {"nothing": "costs nothing", "time": "costs time", "exactness": "changes the numbers a little"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar="CONFIG", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change")
    parser.add_argument("--processes", type=positive, help="how many processes will share the work (1)")
    parser.add_argument(
        "--memory",
        type=positive_number,
        metavar="GIB",
        help="what the device has; by default that of the GPU here, if there is one",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="count what the model's own class keeps, at its real size but without memory; it must be on this disk",
    )
    parser.add_argument(
        "--fleet",
        metavar="RUN_OR_JSON",
        help="in place of the bill: what fleets of several sizes would take, from the seconds of a run or of a bench.json",
    )
    parser.add_argument(
        "--cards", nargs="+", type=positive, metavar="N", help=f"sizes of fleets, in cards ({' '.join(map(str, CARDS))})"
    )
    parser.add_argument(
        "--assume", action="append", metavar="KEY=VALUE", help="what fleets are assumed to be like, such as bandwidth=50"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    if arguments.measure:
        config = config.model_copy(update={"policy": config.policy.measured()})
    if arguments.fleet is None and (given := next((name for name in ("cards", "assume") if getattr(arguments, name)), None)):
        raise UserError(f"--{given} is of fleets; name a run or a bench.json with --fleet, or leave it out")
    if arguments.fleet is not None:
        return _fleets(config, arguments)
    processes = arguments.processes or 1
    bill = bill_of(config, processes)
    budget = _of_this_device() if arguments.memory is None else int(arguments.memory * GIB)
    fit = _fit(config, bill, budget, processes) if budget else None
    notes = _notes(config)
    tell(notes)
    print(
        json.dumps({**bill, "notes": notes, "fit": fit})
        if arguments.json
        else "\n".join([*_table(bill), *(_advice(fit) if fit else [])])
    )
    return 0


def _fleets(config: Config, arguments: argparse.Namespace) -> int:
    from flowgrpo.training.fleet_size.measured import seconds_of, work_of
    from flowgrpo.training.fleet_size.table import as_json, rows_of, text
    from flowgrpo.training.fleet_size.work import Assumptions

    if given := next((name for name in ("processes", "memory") if getattr(arguments, name)), None):
        raise UserError(f"--{given} is not of fleets; leave it or --fleet out (a fleet's cards: --cards)")
    assumed = checked(Assumptions, with_overrides({}, arguments.assume or []), "--assume")
    work = work_of(config, seconds_of(arguments.fleet, assumed.processes), assumed)
    rows = rows_of(work, arguments.cards or CARDS, assumed)
    print(json.dumps(as_json(work, rows, assumed)) if arguments.json else text(work, rows, assumed))
    return 0


def _notes(config: Config) -> list[str] | None:
    """Of the prompts that can be had without the hub; a recipe may name a file that its user has still to write."""
    from flowgrpo.data.prompts import at_hand, load_prompts

    named = [config.rollout.prompts, *([config.evaluation.prompts] if config.evaluation else [])]
    return check_files(config.policy, {name: load_prompts(name) for name in named if at_hand(name)})


def _of_this_device() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _fit(config: Config, bill: dict[str, Any], budget: int, processes: int) -> dict[str, Any]:
    memory: Memory = bill["memory_bytes"]
    switches = fitting(config, budget, processes)
    return {
        "budget_bytes": budget,
        "too_large": [phase for phase, parts in memory.items() if sum(parts.values()) > budget],
        "switches": [{"set": switch, "costs": cost, "peak_memory_bytes": peak} for switch, cost, peak in switches],
        "largest": _largest(config, [switch for switch, _, _ in switches], processes),
        "fits": (switches[-1][2] if switches else bill["peak_memory_bytes"]) <= budget,
    }


def _largest(config: Config, switches: list[str], processes: int) -> str:
    """The largest part of the largest phase once these overrides are set."""
    memory = memory_of(changed(config, switches), processes)
    phase = max(memory.values(), key=lambda parts: sum(parts.values()))
    return max(phase, key=phase.__getitem__)


def _table(bill: dict[str, Any]) -> list[str]:
    rows = {key.replace("_", " "): _show(key, value) for key, value in bill.items() if key != "memory_bytes"}
    for phase, parts in bill["memory_bytes"].items():
        purposes = ", ".join(f"{name} {gib(value)}" for name, value in parts.items() if value >= GIB / 1000)
        rows[f"memory: {phase}"] = f"{gib(sum(parts.values()))} GiB" + (f" ({purposes})" if purposes else "")
    width = max(len(key) for key in rows)
    return [f"{key:<{width}}  {value}" for key, value in rows.items()]


def _advice(fit: dict[str, Any]) -> list[str]:
    budget = f"{gib(fit['budget_bytes'])} GiB"
    if not fit["too_large"]:
        return [f"fits in {budget}"]
    rows = fit["switches"]
    width = max((len(row["set"]) for row in rows), default=0)
    lines = [f"does not fit in {budget}: {', '.join(fit['too_large'])}"]
    lines += [
        f"  {row['set']:<{width}}  {COSTS[row['costs']]}; peak {gib(row['peak_memory_bytes'])} GiB from there" for row in rows
    ]
    if fit["fits"]:
        return lines
    largest = fit["largest"]
    return [*lines, f"no switch is left, and the largest part is '{largest}': {CURES.get(largest, 'use a larger device')}"]


def _show(key: str, value: Any) -> str:
    if "memory" in key:
        return f"{gib(value)} GiB"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def gib(value: int) -> str:
    return f"{value / GIB:.3f}" if value < GIB else f"{value / GIB:.1f}"
