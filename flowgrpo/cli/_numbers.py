"""Numbers on the command line. An argparse.ArgumentTypeError says what is wrong."""

import argparse
import math

SEEDS = 2**63
"""Seeds are below this: generators take 64 bits, and the seeds of further samples count on."""


def positive(text: str) -> int:
    return _whole(text, 1)


def seed(text: str) -> int:
    return _whole(text, 0, SEEDS)


def port(text: str) -> int:
    return _whole(text, 0, 2**16)


def positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from error
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and finite")
    return value


def _whole(text: str, least: int, beyond: int = 2**31) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text[:30]}' is no whole number") from error
    if value < least:
        raise argparse.ArgumentTypeError(f"{text[:30]} is less than {least}")
    if value >= beyond:
        raise argparse.ArgumentTypeError(f"{text[:30]} is more than {beyond - 1}")
    return value
