"""`flowgrpo watch RUN [--host ADDRESS] [--port N]`."""

import argparse

from flowgrpo.cli import _site


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run that trains, or has trained")
    _site.arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.runs.run import Run

    with Run(arguments.run).watch(arguments.host, arguments.port) as site:
        print(f"watch at {site.url}; Ctrl-C ends, and the run goes on", flush=True)
        site.wait()
    return 0
