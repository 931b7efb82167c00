"""`flowgrpo COMMAND ...`; bad input ends with one sentence and exit code 2."""

import errno
import importlib
import os
import sys
from types import ModuleType

from flowgrpo.cli._parser import Parser, parse
from flowgrpo.core.errors import UserError, said, short
from flowgrpo.core.plugins import nearest
from flowgrpo.core.signals import Paused
from flowgrpo.core.threads import wait_politely
from flowgrpo.core.version import VERSION

COMMANDS = {
    "train": "train a model from a config or shipped recipe",
    "recipes": "the models, methods and tasks that ship: a recipe is one of each",
    "methods": "every method and rule: what it chooses, what it needs, where it is from and whose formula it is",
    "plan": "the bill of a config: geometry, network evaluations, memory; loads no weights",
    "sample": "generate with a model, with or without a LoRA",
    "eval": "benchmarks: a model and its checkpoints on the same prompts and seeds, with paired tests",
    "watch": "a run while it trains: curves, newest samples, alarms, time left, as a page on this machine",
    "vote": "people compare samples of runs without knowing which is which; win rates and preference pairs",
    "compare": "runs against one another: held-out gains with intervals, at the end and at equal cost",
    "study": "train recipes with several seeds at an equal budget, then compare them",
    "credit": "which steps and which credit are worth their network evaluations, measured before training",
    "bench": "what an update costs on this machine, by phase, beside what the machine can do and a published loop",
    "score": "score pictures, clips or texts with rewards",
    "models": "which diffusers pipelines are tested, and check one of your own",
    "rewards": "list, describe and probe rewards",
    "serve-reward": "any reward as an HTTP service",
    "doctor": "versions, devices and disk, to paste into an issue",
}


CLOSED = 141
"""The exit code when whoever reads the output has closed it (`| head`), as a shell gives it."""


def main(argv: list[str] | None = None) -> int:
    wait_politely()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return _fail(str(error))
    except Paused as pause:
        _say(str(pause))
        return 0
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted; the same command goes on where it can")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail("the disk is full; free some space, then give the same command again (train: with --resume)")
        if error.filename is None:
            raise
        return _fail(f"{short(error.filename)}: {error.strerror}")


def _run(argv: list[str]) -> int:
    parser = Parser(prog="flowgrpo", description="Align denoising models with GRPO.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {name: commands.add_parser(name, help=summary, description=summary) for name, summary in COMMANDS.items()}
    name = argv[0] if argv else ""
    if not name:
        raise UserError(f"name a command: {', '.join(parsers)}")
    if name not in parsers and not name.startswith("-"):
        raise UserError(f"there is no command '{name}' ({nearest(name, parsers)})")
    if name not in parsers:
        parser.parse_args(argv)
        return 0
    module = _module(name)
    module.arguments(parsers[name])
    arguments = parse(parser, parsers[name], argv)
    try:
        return module.run(arguments)
    except SystemExit as error:
        raise UserError(f"code that it was asked to run ended the program ({said(error)})") from error


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"flowgrpo.cli.{command.replace('-', '_')}")


def _fail(message: str) -> int:
    _say(message)
    return 2


def _say(message: str) -> None:
    if message:
        print(f"flowgrpo: {message}", file=sys.stderr)
