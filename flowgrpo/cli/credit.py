"""`flowgrpo credit MODEL [METHOD...] [a.b=c ...] [--updates K] [--prompts N] [--checkpoint DIR] [--out FOLDER] [--json]`."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from flowgrpo.cli._numbers import positive


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped model, or a whole recipe")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="methods or files that make a recipe with it")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change in every recipe")
    parser.add_argument("--updates", type=positive, default=16, metavar="K", help="independent updates of each scheme (16)")
    parser.add_argument("--prompts", type=positive, metavar="N", help="how many training prompts, spread over all of them (all)")
    parser.add_argument("--reference", metavar="METHOD", help="whose mean gradient is the right way (the mean of all)")
    parser.add_argument("--checkpoint", metavar="DIR", help="measure at the weights of a run's checkpoint-N (the model's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.core.processes import Processes
    from flowgrpo.data.prompts import load_prompts
    from flowgrpo.data.samples import spread
    from flowgrpo.scoring.scorer import Scorer
    from flowgrpo.training.credit.measure import measure
    from flowgrpo.training.credit.point import policies_at
    from flowgrpo.training.credit.schemes import named, require_comparable

    schemes = named(arguments.model, arguments.methods, arguments.overrides)
    require_comparable(schemes)
    config = schemes[0].config
    rows, scorer = load_prompts(config.rollout.prompts), Scorer(config.rewards)
    scorer.check(rows, config.rollout.prompts)
    checkpoint = Path(arguments.checkpoint) if arguments.checkpoint else None
    policies, point = policies_at(schemes, checkpoint, Processes.alone().device)
    prompts = spread(rows, arguments.prompts)
    found = measure(schemes, policies, prompts, scorer, arguments.updates, point, arguments.reference)
    if arguments.json:
        print(json.dumps(asdict(found)))
        return 0
    print(f"{found.updates} updates, {found.prompts} prompts, at {found.point}; reference: {found.reference}")
    print("| scheme | cos^2 per 10^6 evaluations | factor | cosine | error | agreement | silent | weight | evaluations | s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in found.rows:
        print(
            f"| {r.name} | {r.per_million:.1f} [{r.per_million_interval[0]:.1f}, {r.per_million_interval[1]:.1f}] "
            f"| {r.factor:.2f} [{r.factor_interval[0]:.2f}, {r.factor_interval[1]:.2f}] | {r.cosine:.3f} | {r.error:.1f} "
            f"| {r.agreement:.2f} | {r.silent:.2f} | {r.weight:.2f} | {r.evaluations:g} | {r.seconds:.2f} |"
        )
    return 0
