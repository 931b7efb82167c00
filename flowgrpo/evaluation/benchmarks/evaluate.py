"""Every model takes the benchmark, then they are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowgrpo.core.errors import UserError
from flowgrpo.core.pin import pin
from flowgrpo.core.processes import Processes
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.page import write_page
from flowgrpo.evaluation.benchmarks.report import Report, report_on, write_summary
from flowgrpo.evaluation.exam import PATIENCE, Exam, answer
from flowgrpo.evaluation.pins import settings, weights
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.prompt_check import check_files, tell
from flowgrpo.policies.protocol import Sampler
from flowgrpo.scoring.scorer import Scorer

BASE = "base"
RESULTS = "scores.jsonl"


@dataclass(frozen=True)
class Candidate:
    """A model that takes the benchmark: how it is loaded, and what its results are of, for their pin."""

    build: Callable[[], Sampler]
    facts: Mapping[str, Any] = field(default_factory=dict)


def candidates(policy: PolicyConfig, trained: Mapping[str, Path], device: torch.device) -> dict[str, Candidate]:
    """The model as it is, and with each checkpoint, by name. Errors: UserError where a folder is no checkpoint."""
    found = {BASE: Candidate(partial(policy.build_sampler, device, None))}
    for name, folder in trained.items():
        found[name] = Candidate(partial(policy.build_sampler, device, folder), {"weights": weights(folder)})
    return found


def evaluate(
    name: str,
    benchmark: Benchmark,
    exam: Exam,
    policy: PolicyConfig,
    models: Mapping[str, Candidate],
    out: Path,
    command: Sequence[str],
) -> Report:
    """The models by name, the base model first; all have this `policy`, the benchmark's call in it (`with_call`).

    `out` holds a folder of each, summary.json and report.html. What can be refused is refused before a model is loaded.
    """
    if complaint := policy.sampling_complaint(exam.steps):
        raise UserError(f"the benchmark has {exam.steps} steps: {complaint}")
    scorer = _scorer(benchmark, policy)
    scorer.check(exam.prompts, name)
    tell(check_files(policy, {name: exam.prompts}))
    pin(out, settings(benchmark, exam, policy), f"**/{RESULTS}")
    for model, candidate in models.items():
        pin(out / model, candidate.facts, RESULTS)
    processes = Processes.alone()
    records = {
        model: answer(exam, candidate.build, scorer, out / model / RESULTS, model, processes, PATIENCE)
        for model, candidate in models.items()
    }
    report = report_on(name, benchmark, exam, out, command, _called(processes.device), records)
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
