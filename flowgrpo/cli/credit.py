"""`flowgrpo credit MODEL [METHOD...] [a.b=c ...] [--updates K] [--prompts N] [--checkpoint DIR] [--reference SCHEME]
[--reference-updates K] [--completions] [--out FOLDER] [--json]`."""

import argparse
from pathlib import Path

from flowgrpo.cli._numbers import positive
from flowgrpo.core.whole import require_writable


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped model, or a whole recipe")
    parser.add_argument(
        "methods",
        nargs="*",
        default=[],
        metavar="METHOD",
        help="methods or files, each a recipe with the model (a standard set of schemes)",
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change in every recipe")
    parser.add_argument(
        "--updates", type=positive, metavar="K", help="independent updates of each scheme (32; of the standard set 16)"
    )
    parser.add_argument("--prompts", type=positive, metavar="N", help="at most so many training prompts, spread over all of them")
    parser.add_argument("--checkpoint", metavar="DIR", help="measure at the weights of a run's checkpoint-N, not the model's own")
    parser.add_argument("--reference", metavar="SCHEME", help="whose mean gradient is the right way (the mean of all schemes)")
    parser.add_argument(
        "--reference-updates", type=positive, metavar="K", help="more updates of that one scheme (as many as of each)"
    )
    parser.add_argument("--completions", action="store_true", help="how well cheap completions stand in for exact ones, too")
    parser.add_argument("--out", metavar="FOLDER", help="folder for credit.md, credit.json and credit.svg")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.training.credit.schemes import base, named

    out = require_writable(arguments.out, "--out") if arguments.out else None
    model, methods, overrides = arguments.model, arguments.methods, arguments.overrides
    schemes = named(model, methods, overrides) if methods else [base(model, overrides)]

    from flowgrpo.training.credit.measure import Question, measure
    from flowgrpo.training.credit.page import as_json, markdown, write_credit

    question = Question(
        model,
        schemes,
        standard=not methods,
        updates=arguments.updates,
        prompts=arguments.prompts,
        checkpoint=Path(arguments.checkpoint) if arguments.checkpoint else None,
        reference=arguments.reference,
        completions=arguments.completions,
        reference_updates=arguments.reference_updates,
    )
    credit = measure(question)
    if out:
        write_credit(credit, out)
    print(as_json(credit) if arguments.json else markdown(credit))
    return 0
