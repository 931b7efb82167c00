"""`flowgrpo rewards [NAME ...] [--probe]`: list what ships, describe what is named, probe on samples that ship."""

import argparse
import json
import time

from flowgrpo.plugins import built_in_names


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="rewards as a config names them; none lists the shipped ones")
    parser.add_argument("--probe", action="store_true", help="score samples that ship, from worst to best: right order, and speed")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.scoring.catalogue import describe, shipped
    from flowgrpo.scoring.ladder import climb, table

    names = arguments.names or [name for module in built_in_names("flowgrpo.rewards") for name in shipped(module)]
    if not arguments.probe:
        print("\n\n".join(describe(name) for name in names))
        return 0
    climbs = [climb(name) for name in names]
    print(table(climbs))
    return 0
