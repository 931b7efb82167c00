"""Where the pages of `watch` and `vote` are."""

import argparse

from flowgrpo.cli._numbers import port
from flowgrpo.pages.site import HOST


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default=HOST, help=f"the address to listen at ({HOST}: this machine only; others can reach 0.0.0.0)"
    )
    parser.add_argument("--port", type=port, default=0, metavar="N", help="the port to listen at (0: any free one)")
