"""What results on the disk are of, so that results of something else are never mixed with them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowgrpo.core.digests import digest, digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.core.identity import files_in, named
from flowgrpo.core.whole import read_json, write_json
from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.benchmarks.run import Exam
from flowgrpo.policies import PolicyConfig
from flowgrpo.runs.checkpoint import checkpoints
from flowgrpo.scoring.identity import identity

WEIGHTS = ("*.safetensors", "*/*.safetensors", "*.json", "*/*.json")
APART = ("state", "ema")
"""What a checkpoint holds besides: the trainer's state, and averaged weights, which are a checkpoint of their own."""


def pin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down what the results in `folder` are of, or refuse it if they are of something else."""
    file, facts = folder / "settings.json", json.loads(json.dumps(facts))
    if file.is_file():
        before = read_json(file)
        if differ := [key for key in facts if before.get(key) != facts[key]]:
            raise UserError(f"{folder} holds results with other {', '.join(differ)}; choose another --out, or remove that folder")
    elif next(folder.glob("**/scores.jsonl"), None):
        raise UserError(f"{folder} holds results without {file.name}, which says what they are of; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, facts, indent=1)


def settings(exam: Exam, policy: PolicyConfig) -> dict[str, Any]:
    """Whatever decides what the base model scores; `model` has the files, folders and code that the policy names."""
    stated = policy.model_dump(mode="json")
    return {
        "prompts": fingerprint(exam.prompts),
        "samples_per_prompt": exam.benchmark.samples_per_prompt,
        "steps": exam.steps,
        "seed": exam.seed,
        "batch": exam.batch,
        "rewards": {label: identity(reward) for label, reward in exam.benchmark.rewards.items()},
        "policy": stated,
        "model": named(stated),
    }


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """Of the rows, of the pictures and clips that the model works from, and of other files that rows name."""
    stated = [{"index": prompt.index, "text": prompt.text, "metadata": prompt.metadata} for prompt in prompts]
    files = files_in([[prompt.conditions, prompt.metadata] for prompt in prompts])
    return digest_of([stated, files] if files else stated)


def weights(checkpoint: Path) -> dict[str, str]:
    """sha256 of each file of weights in a run's checkpoint, and of those that say how they are read."""
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such checkpoint folder")
    if whole := checkpoints(checkpoint):
        raise UserError(f"{checkpoint} is a run; name one of its checkpoints, such as {whole[-1]}")
    found = {file.relative_to(checkpoint) for pattern in WEIGHTS for file in checkpoint.glob(pattern)}
    own = sorted(file for file in found if file.parent.name not in APART)
    if not any(file.suffix == ".safetensors" for file in own):
        raise UserError(f"{checkpoint} holds no weights (*.safetensors); name a checkpoint folder of a run")
    return {str(file): digest(checkpoint / file) for file in own}


def names_of(folders: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by what their results are filed under: run and checkpoint."""
    named: dict[str, Path] = {}
    for folder in folders:
        parts = folder.expanduser().resolve().parts
        at = next((i for i, part in enumerate(parts) if part.startswith("checkpoint-")), len(parts) - 1)
        name = "-".join(parts[max(at - 1, 1) :])
        if name in named:
            raise UserError(f"{named[name]} and {folder} would both be called '{name}'; rename one of the runs")
        named[name] = folder
    return named
