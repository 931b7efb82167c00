"""`flowgrpo completions CONFIG... [a.b=c ...] [--prompts N] [--json]`."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from flowgrpo.cli._numbers import positive
from flowgrpo.config.recipes import HELP
from flowgrpo.config.run import load_config


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", metavar="CONFIG", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change")
    parser.add_argument("--prompts", type=positive, default=48, help="how many training prompts, spread over all of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    import torch

    from flowgrpo.data.prompts import load_prompts
    from flowgrpo.data.samples import spread
    from flowgrpo.policies.prompt_check import check_files, tell
    from flowgrpo.scoring.scorer import Scorer
    from flowgrpo.training.completions import measure

    rows, scorer = load_prompts(config.rollout.prompts), Scorer(config.rewards)
    scorer.check(rows, config.rollout.prompts)
    tell(check_files(config.policy, {config.rollout.prompts: rows}))
    prompts = spread(rows, arguments.prompts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = config.policy.build(device, config.seed)
    qualities, worths = measure(config, policy, prompts, scorer)
    found = {"completions": [asdict(row) for row in qualities], "steps": [asdict(row) for row in worths]}
    print(json.dumps(found) if arguments.json else f"{completions_table(found['completions'])}\n\n{steps_table(found['steps'])}")
    return 0


def completions_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| completion | correlation of gains | of centred gains | network evaluations per sample | pictures per sample |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name, gains, centred, evaluations, pictures = row.values()
        lines.append(f"| {name} | {gains:.2f} | {centred:.2f} | {evaluations:.1f} | {pictures:.1f} |")
    return "\n".join(lines)


def steps_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| step | correlation of values before and after | best baseline | variance, final reward / gain |",
        "|---|---|---|---|",
    ]
    for row in rows:
        step, correlation, baseline, ratio = row.values()
        lines.append(f"| {step} | {correlation:.2f} | {baseline:.2f} | {ratio:.1f} |")
    return "\n".join(lines)
