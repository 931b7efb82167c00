"""`flowgrpo eval BENCHMARK SOURCE [a.b=c ...] [--checkpoint DIR ...] [--file PATH] [--limit N] [--seed S] [--out DIR]`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flowgrpo.cli._numbers import positive, seed
from flowgrpo.cli._parser import with_old_spelling
from flowgrpo.config.recipes import name_of
from flowgrpo.config.source import HELP, Source, read_source
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import require_writable
from flowgrpo.scoring.chosen import ARGUMENTS, REWARDS, chosen_rewards, of_rewards

if TYPE_CHECKING:
    from flowgrpo.evaluation.exam import Exam


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "benchmark", nargs="?", help="a shipped one, file.py:attr, module:attr or an entry point; none lists what ships"
    )
    parser.add_argument("source", nargs="?", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help=f"values to change; {ARGUMENTS}")
    parser.add_argument(
        "--checkpoint", nargs="+", action="extend", default=[], metavar="DIR", help="checkpoint folders of runs, to compare"
    )
    parser.add_argument("--rewards", default="", metavar="A,B", help=f"what is measured besides, {REWARDS}")
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--file", metavar="PATH", help="the official file or folder, where a benchmark needs it")
    parser.add_argument("--limit", type=positive, metavar="N", help="only N of the prompts, at even distances")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the first sample; the others count on from it (0)")
    parser.add_argument("--batch", type=positive, metavar="N", help="samples at once; the config's evaluation.batch, else 8")
    parser.add_argument("--keep", choices=("first", "all"), default="first", help="pictures of each prompt to keep (first)")
    parser.add_argument("--out", help="folder for scores, pictures and report (evals/BENCHMARK-SOURCE)")
    parser.add_argument("--list", action="store_true", help="list the shipped benchmarks")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.evaluation.benchmarks.catalogue import listing

    if arguments.list or arguments.benchmark is None:
        print(listing())
        return 0
    if arguments.source is None:
        raise UserError(f"name a model too: flowgrpo eval {arguments.benchmark} CONFIG|PIPELINE")
    try:
        settings, overrides = of_rewards(arguments.overrides)
        settings = with_old_spelling(settings, arguments.set)
        return _evaluate(arguments, read_source(arguments.source, overrides), settings)
    except KeyboardInterrupt as error:
        raise UserError("interrupted; the same command goes on where it stopped") from error


def _evaluate(arguments: argparse.Namespace, source: Source, settings: list[str]) -> int:
    from flowgrpo.evaluation.benchmarks.catalogue import find_benchmark, measuring, name_of
    from flowgrpo.evaluation.benchmarks.evaluate import BASE, candidate, evaluate, exam_of, with_call
    from flowgrpo.evaluation.benchmarks.report import last_line, markdown
    from flowgrpo.evaluation.pins import names_of

    benchmark, name = find_benchmark(arguments.benchmark), name_of(arguments.benchmark)
    benchmark = measuring(benchmark, chosen_rewards(arguments.rewards), settings)
    file = Path(arguments.file) if arguments.file else None
    exam = exam_of(benchmark, source, file, arguments.limit, arguments.seed, arguments.batch, arguments.keep)
    trained = names_of([Path(folder) for folder in arguments.checkpoint])
    out = require_writable(arguments.out or f"evals/{name}-{_called(arguments.source)}", "--out")
    policy = with_call(source.policy, benchmark)
    models = {BASE: candidate(policy), **{model: candidate(policy, folder) for model, folder in trained.items()}}
    report = evaluate(name, benchmark, exam, models, out, _command(arguments, exam, out))
    print(markdown(report))
    print(last_line(report))
    return 0


def _called(source: str) -> str:
    path = Path(source)
    return path.resolve().name if path.is_dir() else name_of(source).replace(":", "-")


def _command(arguments: argparse.Namespace, exam: "Exam", out: Path) -> list[str]:
    """What repeats the evaluation, defaults written out."""
    command = ["flowgrpo", "eval", arguments.benchmark, arguments.source, *arguments.overrides]
    command += ["--checkpoint", *arguments.checkpoint] if arguments.checkpoint else []
    command += ["--rewards", arguments.rewards] if arguments.rewards else []
    command += [part for argument in arguments.set for part in ("--set", argument)]
    command += ["--file", arguments.file] if arguments.file else []
    command += ["--limit", f"{arguments.limit}"] if arguments.limit else []
    return [*command, "--seed", f"{exam.seed}", "--batch", f"{exam.batch}", "--keep", exam.keep, "--out", f"{out}"]
