"""`flowgrpo models [--json]`, `flowgrpo models --check DIR [a.b=c ...] [--prompts FILE]`."""

import argparse
import json

from flowgrpo.cli._numbers import positive
from flowgrpo.config.tree import with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.training.conformance import table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="with --check: values of the policy, e.g. call.height=64"
    )
    parser.add_argument("--check", metavar="PIPELINE", help="check a pipeline folder or hub id instead")
    parser.add_argument("--prompts", help="with --check: the first row is what is sampled, with its pictures where it has some")
    parser.add_argument("--steps", type=positive, default=4, help="with --check: transitions of a rollout")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.check and (arguments.overrides or arguments.prompts):
        raise UserError("values and --prompts are for --check PIPELINE; `flowgrpo models` alone prints the table")
    rows = [_check(arguments)] if arguments.check else table.read()
    print(json.dumps(rows) if arguments.json else table.text(rows))
    return 0 if not arguments.check or rows[0]["passed"] else 1


def _check(arguments: argparse.Namespace) -> dict[str, object]:
    from flowgrpo.policies.diffusers import DiffusersConfig
    from flowgrpo.training.conformance.check import check

    tree = with_overrides({"model": arguments.check, "steps": arguments.steps}, arguments.overrides)
    config = checked(DiffusersConfig, tree, "--check")
    prompt = load_prompts(arguments.prompts)[0] if arguments.prompts else Prompt(0, "a red circle")
    return check(arguments.check, "yours", config, prompt).row()
