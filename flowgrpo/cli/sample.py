"""`flowgrpo sample CONFIG|PIPELINE --prompts FILE [a.b=c ...] [--checkpoint DIR] --out DIR`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from flowgrpo.cli._numbers import positive, seed
from flowgrpo.config.source import HELP, read_source
from flowgrpo.core.errors import UserError
from flowgrpo.core.pin import pin
from flowgrpo.core.whole import require_writable
from flowgrpo.data.prompts import PROMPTS, load_prompts

if TYPE_CHECKING:
    from flowgrpo.policies.protocol import Sampler

SAMPLES = "samples.jsonl"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change, e.g. call.guidance_scale=4")
    parser.add_argument("--prompts", required=True, help=PROMPTS)
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint folder of a run, or one with an adapter of diffusers or peft"
    )
    parser.add_argument("--lora", dest="checkpoint", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out",
        default="samples",
        help=f"folder for {SAMPLES} and the pictures; after an interruption the same command goes on",
    )
    parser.add_argument("--steps", type=positive, help="sampling steps; the config's evaluation steps by default, else 28")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the first prompt; row i uses seed + i")
    parser.add_argument("--batch", type=positive, default=8, help="samples at once (8)")


def run(arguments: argparse.Namespace) -> int:
    try:
        return _sample(arguments)
    except KeyboardInterrupt as error:
        raise UserError("interrupted; the same command goes on where it stopped") from error


def _sample(arguments: argparse.Namespace) -> int:
    out = require_writable(arguments.out, "--out")
    source = read_source(arguments.source, arguments.overrides, arguments.steps)
    prompts = load_prompts(arguments.prompts)
    trained = Path(arguments.checkpoint) if arguments.checkpoint else None
    from flowgrpo.core.processes import Processes
    from flowgrpo.evaluation.exam import Exam, answer
    from flowgrpo.evaluation.pins import of_samples
    from flowgrpo.policies.prompt_check import check_files, tell
    from flowgrpo.scoring.scorer import Scorer

    notes = check_files(source.policy, {arguments.prompts: prompts})
    exam = Exam(prompts, source.steps, arguments.seed, arguments.batch, source.policy.batch_key)
    pin(out, of_samples(exam, source.policy, trained), SAMPLES)
    processes = Processes.alone()

    def build() -> "Sampler":
        sampler = source.policy.build_sampler(processes.device, trained)
        tell(check_files(source.policy, {arguments.prompts: prompts}) if notes is None else notes)
        return sampler

    records = answer(exam, build, Scorer({}), out / SAMPLES, "sample", processes)
    print(json.dumps({"out": str(out), "samples": len(records), "steps": source.steps}))
    return 0
