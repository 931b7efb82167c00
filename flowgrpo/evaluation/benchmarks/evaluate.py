"""Every model takes the benchmark, then they are compared."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from flowgrpo.core.errors import UserError
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.page import write_page
from flowgrpo.evaluation.benchmarks.pins import pin, settings, weights
from flowgrpo.evaluation.benchmarks.report import Report, report_on, write_summary
from flowgrpo.evaluation.benchmarks.run import Exam, take
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.prompt_check import check_files, tell
from flowgrpo.scoring.scorer import Scorer

BASE = "base"


def evaluate(
    name: str, exam: Exam, policy: PolicyConfig, trained: Mapping[str, Path], out: Path, command: Sequence[str]
) -> Report:
    """The base model and the checkpoints `trained`, by name. `out` holds a folder of each, summary.json and report.html.

    What can be refused is refused before a model is loaded.
    """
    policy = with_call(policy, exam.benchmark)
    if complaint := policy.sampling_complaint(exam.steps):
        raise UserError(f"the benchmark has {exam.steps} steps: {complaint}")
    found = {model: weights(folder) for model, folder in trained.items()}
    scorer = _scorer(exam.benchmark, policy)
    scorer.check(exam.prompts, name)
    tell(check_files(policy, {name: exam.prompts}))
    pin(out, settings(exam, policy))
    for model, digests in found.items():
        pin(out / model, {"weights": digests})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models: dict[str, Path | None] = {BASE: None, **trained}
    records = {
        model: take(exam, partial(policy.build_sampler, device, folder), scorer, out / model, model)
        for model, folder in models.items()
    }
    report = report_on(name, exam, out, command, _called(device), records)
    write_summary(report)
    write_page(report)
    return report


def _scorer(benchmark: Benchmark, policy: PolicyConfig) -> Scorer:
    scorer = Scorer(benchmark.rewards)
    for label, card in scorer.cards.items():
        if card.compares:
            raise UserError(
                f"reward '{label}' compares the samples of a prompt with one another, so its scores say nothing of one model "
                "against another; leave it out of the benchmark"
            )
        if card.reads not in (None, *policy.makes):
            raise UserError(f"reward '{label}' reads {card.reads}, but policy '{policy.type}' makes {' or '.join(policy.makes)}")
    return scorer


def with_call(policy: PolicyConfig, benchmark: Benchmark) -> PolicyConfig:
    """The policy with what the benchmark pins of the pipeline's call."""
    if not benchmark.call:
        return policy
    if not isinstance(policy, DiffusersConfig):
        raise UserError(f"the benchmark is for pipelines, whose call it pins; policy '{policy.type}' has none")
    return policy.model_copy(update={"call": {**policy.call, **benchmark.call}})


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
