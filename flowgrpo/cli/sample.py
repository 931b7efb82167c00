"""`flowgrpo sample CONFIG|PIPELINE --prompts FILE [a.b=c ...] [--checkpoint DIR] --out DIR`."""

import argparse
import json
from pathlib import Path

from flowgrpo.cli._numbers import positive, seed
from flowgrpo.config.source import HELP, read_source
from flowgrpo.core.whole import require_writable
from flowgrpo.data.media import kept
from flowgrpo.data.prompts import PROMPTS, batches, load_prompts


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=HELP)
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="values to change, e.g. call.guidance_scale=4")
    parser.add_argument("--prompts", required=True, help=PROMPTS)
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="a checkpoint folder of a run, or one with an adapter of diffusers or peft"
    )
    parser.add_argument("--lora", dest="checkpoint", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="samples", help="folder for samples.jsonl and the pictures")
    parser.add_argument("--steps", type=positive, help="sampling steps; the config's evaluation steps by default, else 28")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the first prompt; row i uses seed + i")
    parser.add_argument("--batch", type=positive, default=8, help="samples at once (8)")


def run(arguments: argparse.Namespace) -> int:
    out = require_writable(arguments.out, "--out")
    source = read_source(arguments.source, arguments.overrides, arguments.steps)
    prompts = load_prompts(arguments.prompts)
    import torch

    from flowgrpo.policies.prompt_check import check_files, tell

    notes = check_files(source.policy, {arguments.prompts: prompts})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = source.policy.build_sampler(device, Path(arguments.checkpoint) if arguments.checkpoint else None)
    tell(check_files(source.policy, {arguments.prompts: prompts}) if notes is None else notes)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "samples.jsonl").open("w") as index:
        for places in batches(prompts, arguments.batch, source.policy.batch_key):
            chunk = [prompts[i] for i in places]
            seeds = [arguments.seed + prompt.index for prompt in chunk]
            shown = sampler.generate(chunk, seeds, source.steps).shown()
            for prompt, seed, sample in zip(chunk, seeds, shown, strict=True):
                made = kept(sample, out, f"{prompt.index:05d}")
                index.write(json.dumps({**prompt.metadata, **made, "seed": seed}) + "\n")
    print(json.dumps({"out": str(out), "samples": len(prompts), "steps": source.steps}))
    return 0
