"""`flowgrpo train CONFIG... [a.b=c ...] [--resume [RUN]]`."""

import argparse
import json
import sys
from pathlib import Path

from flowgrpo.config.recipes import HELP
from flowgrpo.config.run import load_config
from flowgrpo.runs.provenance import Provenance, resumed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar="CONFIG", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with the newest run of this config, with the run folder RUN, or from its checkpoint RUN/checkpoint-N; with "
        "the config that the run began with",
    )


def run(arguments: argparse.Namespace) -> int:
    source, overrides, where = arguments.config, arguments.overrides, arguments.resume
    if where and "=" in where and not Path(where).exists():
        where, overrides = "", [where, *overrides]
    if where is None:
        resume = None
        config = load_config(source, overrides)
        provenance = Provenance.of(source, config)
    else:
        resume = resumed(where, source, overrides)
        config, provenance = resume.config, Provenance.load(resume.run)
    from flowgrpo.training.run import train

    summary = train(config, provenance, resume)
    if summary is not None:
        print(f"open {summary['run']}/report.html", file=sys.stderr)
        print(json.dumps(summary))
    return 0
