"""`flowgrpo compare RUN... [--out DIR] [--json]`."""

import argparse

from flowgrpo.core.whole import require_writable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders, or folders of them; the first recipe is the baseline"
    )
    parser.add_argument("--out", help="folder for compare.md, compare.json, compare.svg and compare.html")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.runs.compare import compare
    from flowgrpo.runs.compare_page import as_json, markdown, write_comparison

    out = require_writable(arguments.out, "--out") if arguments.out else None
    comparison = compare(arguments.runs)
    if out:
        write_comparison(comparison, out)
    print(as_json(comparison) if arguments.json else markdown(comparison))
    return 0
