"""`flowgrpo train CONFIG [a.b=c ...] [--resume [RUN]]`."""

import argparse
import json
import sys
from pathlib import Path

from flowgrpo.config.run import Config, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import recipe_name
from flowgrpo.runs.folder import newest_run


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a YAML file or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with the newest run of this config, or with the run folder RUN, from its last checkpoint and with its config",
    )


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    name = recipe_name(arguments.config)
    path: Path | None = None
    if arguments.resume is not None:
        path = Path(arguments.resume) if arguments.resume else newest_run(config.output, name)
        config = resumed_config(path, arguments.overrides)
    from flowgrpo.training.run import train

    summary = train(config, name, resume=path)
    if summary is not None:
        print(f"open {summary['run']}/report.html", file=sys.stderr)
        print(json.dumps(summary))
    return 0


def resumed_config(run: Path, overrides: list[str]) -> Config:
    saved = run / "config.yaml"
    if not saved.is_file():
        raise UserError(f"{run} is not a run folder (no config.yaml)")
    return load_config(str(saved), overrides)
