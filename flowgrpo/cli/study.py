"""`flowgrpo study CONFIG... [--seeds 0 1 2] [--evaluations N] [--points 5] [--grid KEY VALUE...] [--out DIR] [a.b=c ...]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowgrpo.cli._numbers import positive, seed
from flowgrpo.cli._parser import with_old_spelling
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import require_writable

if TYPE_CHECKING:
    from flowgrpo.runs.compare import Comparison
    from flowgrpo.runs.grid import Grid
    from flowgrpo.runs.study import Trial

GRID_SEED = 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="YAML files or shipped recipes; the first is the baseline")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change in every recipe")
    parser.add_argument("--seeds", nargs="+", type=seed, default=[0, 1, 2], metavar="SEED", help="seeds of each recipe (0 1 2)")
    parser.add_argument(
        "--evaluations", type=positive, metavar="N", help="network evaluations of each run (the cheapest recipe's own budget)"
    )
    parser.add_argument("--points", type=positive, default=5, help="held-out evaluations along each run (5)")
    parser.add_argument("--workers", type=positive, default=1, help="runs at a time, sharing the CPU cores (1)")
    parser.add_argument("--out", default="study", help="folder for runs, logs and the comparison (study)")
    parser.add_argument(
        "--grid",
        nargs="+",
        metavar=("KEY", "VALUE"),
        help="a setting and values: each recipe is compared with the one that is best for it",
    )
    parser.add_argument("--grid-prompts", metavar="FILE", help="with --grid: held-out prompts to choose by")
    parser.add_argument(
        "--grid-seeds", nargs="+", type=seed, default=[], metavar="SEED", help=f"with --grid: seeds to choose by ({GRID_SEED})"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.config.run import load_config
    from flowgrpo.runs.grid import choose
    from flowgrpo.runs.study import budget_of, plan

    sources, workers, points = arguments.configs, arguments.workers, arguments.points
    out, overrides = require_writable(arguments.out, "--out"), with_old_spelling(arguments.overrides, arguments.set)
    evaluations = arguments.evaluations or budget_of(load_config(source, overrides) for source in sources)
    trials = plan(sources, arguments.seeds, evaluations, points, overrides, out)
    if grid := _grid(arguments, overrides):
        tried = grid.trials(sources, evaluations, points, overrides, out)
        choice = choose(grid, {value: _compared(those, workers, grid.folder(out, value)) for value, those in tried.items()})
        choice.write(out)
        print(f"{choice.markdown()}\n")
        trials = plan(sources, arguments.seeds, evaluations, points, overrides, out, choice.overrides)
    _compared(trials, workers, out, prints=True)
    return 0


def _grid(arguments: argparse.Namespace, overrides: Sequence[str]) -> "Grid | None":
    from flowgrpo.runs.grid import Grid

    if not arguments.grid:
        if arguments.grid_prompts or arguments.grid_seeds:
            name = "--grid-prompts" if arguments.grid_prompts else "--grid-seeds"
            raise UserError(f"{name} go with --grid; name a setting and values, as in --grid optimizer.lr 1e-4 3e-4")
        return None
    if not arguments.grid_prompts:
        raise UserError("--grid needs --grid-prompts: a file of prompts to choose by, other ones than the comparison has")
    key, *values = arguments.grid
    grid = Grid(key, list(dict.fromkeys(values)), arguments.grid_prompts, arguments.grid_seeds or [GRID_SEED])
    if complaint := grid.complaint(arguments.configs, arguments.seeds, overrides):
        raise UserError(complaint)
    return grid


def _compared(trials: "Sequence[Trial]", workers: int, out: Path, prints: bool = False) -> "Comparison":
    """Train, and compare what is finished. Errors: UserError where runs failed."""
    from flowgrpo.runs.compare_page import markdown, write_comparison
    from flowgrpo.runs.study import comparison_of, train

    train(trials, workers)
    failed = [trial for trial in trials if not trial.finished()]
    logs = ", ".join(str(trial.log) for trial in failed)
    failure = UserError(f"{len(failed)} of {len(trials)} runs failed; mend what the end of {logs} says and repeat the command")
    if len(failed) == len(trials):
        raise failure
    comparison = comparison_of(trials)
    write_comparison(comparison, out)
    if prints:
        print(markdown(comparison))
    if failed:
        raise failure
    return comparison
