"""`flowgrpo score SOURCE --rewards a,b [rewards.LABEL.arguments.KEY=VALUE ...] [--prompts FILE] --out DIR`."""

import argparse
import json
from typing import Any

from flowgrpo.cli._numbers import positive
from flowgrpo.cli._parser import with_old_spelling
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import require_writable
from flowgrpo.scoring.chosen import ARGUMENTS, REWARDS, chosen_rewards, with_arguments

SOURCE = """a folder of pictures and clips with all below it, a quoted glob, or a .jsonl with rows of {"image" or "video": path,
"prompt": ..., any metadata}, paths relative to it; a row with neither is a text, its "text" """
PROMPTS = """.txt, .csv, .tsv, .jsonl or .json: a row for each sample, found by a column "image" or "video", or in the order of
the names (10 after 2) where that is certain; without it, prompts come from the .jsonl, or from NAME.txt beside the picture"""
OUT = "for scores.jsonl, summary.json and report.html; after an interruption the same command goes on"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help=ARGUMENTS)
    parser.add_argument("--rewards", required=True, metavar="A,B", help=REWARDS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--prompts", metavar="FILE", help=PROMPTS)
    parser.add_argument("--out", required=True, metavar="DIR", help=OUT)
    parser.add_argument("--batch", type=positive, default=16, help="pictures, frames or texts in memory at once")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.evaluation.sheet.score import score

    settings = with_old_spelling(arguments.overrides, arguments.set)
    rewards = with_arguments(chosen_rewards(arguments.rewards), settings)
    if not rewards:
        raise UserError("--rewards names no reward")
    try:
        facts, _ = score(arguments.source, arguments.prompts, rewards, require_writable(arguments.out, "--out"), arguments.batch)
    except KeyboardInterrupt as error:
        raise UserError("interrupted; the same command goes on") from error
    print(_table(facts))
    means = {label: reward["mean"] for label, reward in facts["rewards"].items()}
    print(json.dumps({"out": arguments.out, "samples": facts["samples"], "failed": facts["failed"], "means": means}))
    return 0


def _table(facts: dict[str, Any]) -> str:
    from flowgrpo.pages.tables import markdown_table

    rows = [["reward", "mean", "95 % interval", "n", "failed"]]
    for label, reward in facts["rewards"].items():
        figures = [f"{value:.4g}" for value in (reward["mean"], *reward["ci95"])] if reward["n"] else []
        interval = f"{figures[1]} to {figures[2]}" if figures else ""
        rows.append([label, figures[0] if figures else "", interval, str(reward["n"]), str(reward["failed"])])
    return markdown_table(rows)
