"""`flowgrpo study CONFIG... [--seeds 0 1 2] [--evaluations N] [--points 5] [--workers 1] [--out DIR] [a.b=c ...]`."""

import argparse

from flowgrpo.cli._numbers import positive, seed
from flowgrpo.cli._parser import with_old_spelling
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import require_writable


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
    parser.add_argument("--set", nargs="+", action="extend", default=[], help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.runs.compare_page import markdown, write_comparison
    from flowgrpo.runs.study import comparison_of, plan, train

    out = require_writable(arguments.out, "--out")
    overrides = with_old_spelling(arguments.overrides, arguments.set)
    trials = plan(arguments.configs, arguments.seeds, arguments.evaluations, arguments.points, overrides, out)
    try:
        train(trials, arguments.workers)
    except KeyboardInterrupt as error:
        raise UserError("interrupted; the same command goes on with the runs that are missing") from error
    failed = [trial for trial in trials if not trial.finished()]
    if len(failed) < len(trials):
        comparison = comparison_of(trials)
        write_comparison(comparison, out)
        print(markdown(comparison))
    if failed:
        logs = ", ".join(str(trial.log) for trial in failed)
        raise UserError(f"{len(failed)} of {len(trials)} runs failed; mend what the end of {logs} says and repeat the command")
    return 0
