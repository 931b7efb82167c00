"""`flowgrpo rewards [NAME ...]`: list what ships, describe and probe what is named."""

import argparse
import json
import time

from flowgrpo.plugins import built_in_names, resolve


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="rewards as a config names them; none lists the shipped modules")
    parser.add_argument("--images", help="a JSONL of {image, prompt, metadata ...} to probe on")


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.scoring import PACKAGE

    for name in arguments.names or built_in_names(PACKAGE):
        module, _ = resolve(name, PACKAGE)
        print(f"{name}: {' '.join((module.__doc__ or '').split())}")
        if arguments.images:
            print(json.dumps({"reward": name, **_probe(name, arguments.images)}))
    return 0


def _probe(name: str, images: str) -> dict[str, float]:
    """Mean, least and greatest score on the user's own pictures, and seconds per picture."""
    from flowgrpo.config import RewardConfig
    from flowgrpo.samples import read_samples
    from flowgrpo.scoring import Scorer, probe

    samples = read_samples(images)
    scorer = Scorer({name: RewardConfig(use=name)})
    begin = time.perf_counter()
    values = scorer(samples)[name]
    seconds = (time.perf_counter() - begin) / len(samples)
    probe(scorer, samples)
    return {"mean": float(values.mean()), "min": float(values.min()), "max": float(values.max()), "seconds": seconds}
