"""`flowgrpo sample CONFIG|PIPELINE --prompts FILE [--lora DIR] --out DIR`."""

import argparse
import json
from pathlib import Path

from flowgrpo.config import checked, load_config, with_overrides
from flowgrpo.paths import locate
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.prompts import load_prompts
from flowgrpo.runs.folder import kept


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a config or shipped recipe (its model and call), or a pipeline folder or hub id")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="values to change, e.g. call.guidance_scale=4")
    parser.add_argument("--prompts", required=True, help=".txt, .jsonl or .csv")
    parser.add_argument("--lora", help="a checkpoint folder of a run")
    parser.add_argument("--out", default="samples", help="folder for samples.jsonl and the pictures")
    parser.add_argument("--steps", type=int, help="sampling steps; the config's evaluation steps by default, else 28")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first prompt; row i uses seed + i")
    parser.add_argument("--batch", type=int, default=8)


def run(arguments: argparse.Namespace) -> int:
    policy_config, steps = _policy(arguments)
    prompts = load_prompts(arguments.prompts)
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = policy_config.build_sampler(device, Path(arguments.lora) if arguments.lora else None)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "samples.jsonl").open("w") as index:
        for start in range(0, len(prompts), arguments.batch):
            chunk = prompts[start : start + arguments.batch]
            seeds = [arguments.seed + prompt.index for prompt in chunk]
            shown = sampler.generate(chunk, seeds, steps).shown()
            for prompt, seed, sample in zip(chunk, seeds, shown, strict=True):
                made = kept(sample, out, f"{prompt.index:05d}")
                index.write(json.dumps({**prompt.metadata, **made, "seed": seed}) + "\n")
    print(json.dumps({"out": str(out), "samples": len(prompts), "steps": steps}))
    return 0


def _policy(arguments: argparse.Namespace) -> tuple[PolicyConfig, int]:
    """The policy that `source` stands for, and the number of sampling steps."""
    if (locate(arguments.source) / "model_index.json").is_file():
        steps = arguments.steps or 28
        tree = with_overrides({"model": arguments.source, "steps": steps}, arguments.overrides)
        return checked(DiffusersConfig, tree, arguments.source), steps
    config = load_config(arguments.source, arguments.overrides)
    default = config.evaluation.steps if config.evaluation else config.policy.steps
    return config.policy, arguments.steps or default
