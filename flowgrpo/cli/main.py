"""`flowgrpo COMMAND ...`; bad input ends with one sentence and exit code 2."""

import argparse
import errno
import importlib
import sys
from types import ModuleType

from flowgrpo import __version__
from flowgrpo.core.errors import UserError, said

COMMANDS = {
    "train": "train a model from a config or shipped recipe",
    "plan": "the bill of a config: geometry, network evaluations, memory; loads no weights",
    "sample": "generate with a model, with or without a LoRA",
    "eval": "benchmarks: a model and its checkpoints on the same prompts and seeds, with paired tests",
    "compare": "runs against one another: held-out gains with intervals, at the end and at equal cost",
    "study": "train recipes with several seeds at an equal budget, then compare them",
    "completions": "how well cheap completions of intermediate states stand in for exact ones",
    "score": "score pictures, clips or texts with rewards",
    "models": "which diffusers pipelines are tested, and check one of your own",
    "rewards": "list, describe and probe rewards",
    "serve-reward": "any reward as an HTTP service",
    "doctor": "versions, devices and disk, to paste into an issue",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flowgrpo", description="Align denoising models with GRPO.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    argv = sys.argv[1:] if argv is None else argv
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in argv[:1]:
            _module(name).arguments(command)
    arguments = parser.parse_args(argv)
    try:
        return _module(arguments.command).run(arguments)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted; the same command goes on where it can")
    except SystemExit as error:
        return _fail(f"code that it was asked to run ended the program ({said(error)})")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail("the disk is full; free some space, then give the same command again (train: with --resume)")
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"flowgrpo.cli.{command.replace('-', '_')}")


def _fail(message: str) -> int:
    print(f"flowgrpo: {message}", file=sys.stderr)
    return 2
