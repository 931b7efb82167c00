"""`flowgrpo train CONFIG... [a.b=c ...] [--tiny] [--resume [RUN | auto]]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flowgrpo.config.recipes import HELP, name_of
from flowgrpo.config.run import Config, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.runs.provenance import AUTO, Provenance, Resumed, found_again, going_on, resumed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar="CONFIG", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="rehearse the recipe in a minute: the same run on a tiny random model of the same class, made on the spot; nothing "
        "is downloaded, and no number means anything",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with the newest run of this recipe, with the run folder RUN, or from its checkpoint RUN/checkpoint-N; with "
        "the config that the run began with. 'auto', for jobs that a batch system starts again: go on with the newest run that "
        "has this config, from its last checkpoint that can be read, or begin anew where there is none",
    )


def run(arguments: argparse.Namespace) -> int:
    source, overrides, where = arguments.config, arguments.overrides, arguments.resume
    if where and "=" in where and not Path(where).exists():
        where, overrides = "", [where, *overrides]
    if where is not None and arguments.tiny:
        raise UserError("a rehearsal with --tiny is short and does not go on; begin it again without --resume")
    if where is None:
        resume = None
        config, provenance = _rehearsal(source, overrides) if arguments.tiny else _run(source, overrides)
    elif where == AUTO:
        config, provenance, resume = _again(source, overrides)
    else:
        resume = resumed(where, source, overrides)
        config, provenance = resume.config, Provenance.load(resume.run)
    from accelerate import PartialState

    from flowgrpo.training.run import train

    finished = train(config, provenance, resume)
    if PartialState().is_main_process:
        if config.rehearsal:
            print(f"flowgrpo: {config.rehearsal[0]}", file=sys.stderr)
        print(f"open {finished}/report.html", file=sys.stderr)
        print(json.dumps(finished.summary))
    return 0


def _run(source: Sequence[str], overrides: Sequence[str]) -> tuple[Config, Provenance]:
    config = load_config(source, overrides)
    return config, Provenance.of(source, config)


def _again(source: Sequence[str], overrides: Sequence[str]) -> tuple[Config, Provenance, Resumed | None]:
    """The main process looks for the run, before any of them begins one."""
    from flowgrpo.core.processes import once

    config = load_config(source, overrides)
    path = once(lambda: found_again(name_of(source), config))
    if path is None:
        return config, Provenance.of(source, config), None
    return config, Provenance.load(path), replace(going_on(path, name_of(source), config), automatic=True)


def _rehearsal(source: Sequence[str], overrides: Sequence[str]) -> tuple[Config, Provenance]:
    """Its runs have names of their own, so that none of them is resumed as the recipe's. From here on no hub is asked."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    from flowgrpo.core.processes import once
    from flowgrpo.training.rehearsal import rehearsed

    tree = once(lambda: rehearsed(source, overrides).model_dump(mode="json"))
    config = Config.model_validate(tree)
    provenance = Provenance.of(source, config)
    return config, replace(provenance, recipe=f"{provenance.recipe}-tiny")
