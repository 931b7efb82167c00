"""What samples on the disk, and their scores, are of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgrpo.core.digests import digest, digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.core.identity import files_in, named
from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.exam import Exam
from flowgrpo.policies import PolicyConfig
from flowgrpo.runs.folder import RunFolder
from flowgrpo.scoring.identity import identity

WEIGHTS = ("*.safetensors", "*/*.safetensors", "*.json", "*/*.json")
APART = ("state", "ema")
"""What a checkpoint holds besides: the trainer's state, and averaged weights, which are a checkpoint of their own."""


def settings(benchmark: Benchmark, exam: Exam, policy: PolicyConfig) -> dict[str, Any]:
    """Whatever decides what the base model scores."""
    rewards = {label: identity(reward) for label, reward in benchmark.rewards.items()}
    return {**of_samples(exam, policy), "samples_per_prompt": exam.samples_per_prompt, "rewards": rewards}


def of_samples(exam: Exam, policy: PolicyConfig, trained: Path | None = None) -> dict[str, Any]:
    """Whatever decides what a model makes; `model` has the files, folders and code that the policy names."""
    stated = policy.model_dump(mode="json")
    return {
        "prompts": fingerprint(exam.prompts),
        "steps": exam.steps,
        "seed": exam.seed,
        "batch": exam.batch,
        "policy": stated,
        "model": named(stated),
        **({"weights": digest(trained)} if trained else {}),
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
    if whole := RunFolder(checkpoint).checkpoints:
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
