"""`flowgrpo methods [NAME ...] [--json]`: every method and rule, with what it chooses, what it needs, and where it is from."""

import argparse
import json
from dataclasses import asdict

from flowgrpo.config.methods import Method, methods
from flowgrpo.pages.tables import markdown_table

HEADING = ["name", "kind", "trains", "chooses", "needs", "source", "formula"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these methods and rules")
    parser.add_argument("--json", action="store_true", help="print a JSON list, with all that each of them sets")


def run(arguments: argparse.Namespace) -> int:
    rows = methods(*arguments.names)
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else markdown_table([HEADING, *map(_row, rows)]))
    return 0


def _row(method: Method) -> list[str]:
    chooses = ", ".join(f"{slot} {choice}" for slot, choice in method.slots.items())
    trains, needs = ", ".join(method.trains), ", ".join(method.needs)
    return [method.name, method.kind, trains, chooses, needs or "nothing", method.source, method.formula]
