"""`flowgrpo plan CONFIG [a.b=c ...] [--processes N] [--json]`."""

import argparse
import json
from typing import Any

from flowgrpo.bill import bill_of
from flowgrpo.config import load_config


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a YAML file or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values to change")
    parser.add_argument("--processes", type=int, default=1, help="how many processes will share the work")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    bill = bill_of(config, arguments.processes)
    print(json.dumps(bill) if arguments.json else table(bill))
    return 0


def table(bill: dict[str, Any]) -> str:
    rows = {**bill, **{f"memory: {k}": v for k, v in bill["memory_bytes"].items()}}
    del rows["memory_bytes"]
    width = max(len(key) for key in rows)
    return "\n".join(f"{key.replace('_', ' '):<{width}}  {_show(key, value)}" for key, value in rows.items())


def _show(key: str, value: Any) -> str:
    if "memory" in key:
        return f"{value / 2**30:.3f} GiB"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"
