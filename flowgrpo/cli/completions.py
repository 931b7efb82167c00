"""`flowgrpo completions CONFIG [a.b=c ...] [--prompts N] [--json]`."""

import argparse
import json
from dataclasses import asdict

from flowgrpo.config import load_config


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a YAML file or the name of a shipped recipe, e.g. mini/dense_grpo")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values to change")
    parser.add_argument("--prompts", type=int, default=48, help="how many training prompts, spread over the file")
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    import torch

    from flowgrpo.completions import measure
    from flowgrpo.evaluation import spread
    from flowgrpo.prompts import load_prompts
    from flowgrpo.scoring import Scorer

    prompts = spread(load_prompts(config.rollout.prompts), arguments.prompts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = config.policy.build(device, config.seed)
    rows = [asdict(quality) for quality in measure(config, policy, prompts, Scorer(config.rewards))]
    print(json.dumps(rows) if arguments.json else table(rows))
    return 0


def table(rows: list[dict[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| completion | correlation of gains | of centred gains | network evaluations per sample | pictures per sample |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name, gains, centred, evaluations, pictures = row.values()
        lines.append(f"| {name} | {gains:.2f} | {centred:.2f} | {evaluations:.1f} | {pictures:.1f} |")
    return "\n".join(lines)
