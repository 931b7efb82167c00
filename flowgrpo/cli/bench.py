"""`flowgrpo bench MODEL [METHOD [TASK]] [a.b=c ...] [--updates N] [--baseline] [--random] [--out FOLDER] [--json]`."""

import argparse
import json

from flowgrpo.cli._numbers import positive
from flowgrpo.core.whole import require_writable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="+",
        metavar="CONFIG",
        help="a model, with a method and a task or without, or a whole recipe",
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change")
    parser.add_argument("--updates", type=positive, default=3, metavar="N", help="updates that are timed, after warming up (3)")
    parser.add_argument(
        "--baseline", action="store_true", help="beside Flow-GRPO's published loop, on the same work (Stable Diffusion 3)"
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="random weights of the real size and no rewards: SD3.5-medium, FLUX.1-dev, Wan2.1-1.3B and Dream-7B need no "
        "download, other models their config files",
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for bench.json and bench.html")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.training.bench.measure import config_of, measure
    from flowgrpo.training.bench.page import markdown, write_bench
    from flowgrpo.training.bench.result import as_json

    out = require_writable(arguments.out, "--out") if arguments.out else None
    bench = measure(config_of(arguments.config, arguments.overrides), arguments.updates, arguments.baseline, arguments.random)
    if out:
        write_bench(bench, out)
    print(json.dumps(as_json(bench)) if arguments.json else markdown(bench))
    return 0
