"""`flowgrpo rewards [NAME ...] [--probe]`: describe rewards, or probe them on samples that ship."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="rewards as a config names them; all that ship if none is named")
    parser.add_argument("--probe", action="store_true", help="score samples that ship: right order, not constant, how fast")


def run(arguments: argparse.Namespace) -> int:
    """1 when a probed reward has its samples in the wrong order."""
    from flowgrpo.scoring.catalogue import climb, describe, shipped, table

    names = arguments.names or shipped()
    if not arguments.probe:
        print("\n\n".join(describe(name) for name in names))
        return 0
    climbs = [climb(name) for name in names]
    print(table(climbs))
    return int(any(climb.means and not climb.right for climb in climbs))
