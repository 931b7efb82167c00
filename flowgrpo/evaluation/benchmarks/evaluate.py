"""Every model takes the benchmark, then they are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowgrpo.config.source import Source
from flowgrpo.core.errors import UserError
from flowgrpo.core.pin import pin
from flowgrpo.core.processes import Processes
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.page import write_page
from flowgrpo.evaluation.benchmarks.report import Report, report_on, write_summary
from flowgrpo.evaluation.exam import PATIENCE, Exam, Keep, answer
from flowgrpo.evaluation.pins import of_samples, settings, weights
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.prompt_check import check_files, tell
from flowgrpo.policies.protocol import Sampler
from flowgrpo.scoring.scorer import Scorer

BASE = "base"
RESULTS = "scores.jsonl"


@dataclass(frozen=True)
class Candidate:
    """A model that takes a benchmark: `build` loads it, with the call of `policy`; `facts` are what its results are of."""

    policy: PolicyConfig
    build: Callable[[], Sampler]
    facts: Mapping[str, Any] = field(default_factory=dict)


def exam_of(
    benchmark: Benchmark, source: Source, file: Path | None, limit: int | None, seed: int, batch: int | None, keep: Keep = "first"
) -> Exam:
    """As the benchmark has it, else as the model is evaluated otherwise; `limit` of the prompts, at even distances."""
    return Exam(
        prompts=spread(benchmark.load(file), limit),
        steps=benchmark.steps or source.steps,
        seed=seed,
        batch=batch or source.batch,
        batch_key=source.policy.batch_key,
        samples_per_prompt=benchmark.samples_per_prompt,
        keep=keep,
    )


def candidate(policy: PolicyConfig, trained: Path | None = None) -> Candidate:
    """A model from files, as it is or with a checkpoint. Errors: UserError where the folder is none."""
    facts = {} if trained is None else {"weights": weights(trained)}
    return Candidate(policy, partial(policy.build_sampler, Processes.alone().device, trained), facts)


def evaluate(
    name: str, benchmark: Benchmark, exam: Exam, models: Mapping[str, Candidate], out: Path, command: Sequence[str]
) -> Report:
    """The models by name, the base model first, all with the benchmark's call (`with_call`).

    `out` holds a folder of each, summary.json and report.html. What can be refused is refused before a model is loaded.
    """
    scorer = Scorer(benchmark.rewards)
    scorer.check(exam.prompts, name)
    base = next(iter(models.values())).policy
    for policy in {id(model.policy): model.policy for model in models.values()}.values():
        _refuse(scorer, policy, exam)
        tell(check_files(policy, {name: exam.prompts}))
    pin(out, settings(benchmark, exam, base), f"**/{RESULTS}")
    for model, found in models.items():
        apart = {} if found.policy == base else of_samples(exam, found.policy)
        pin(out / model, {**apart, **found.facts}, RESULTS)
    processes = Processes.alone()
    records = {
        model: answer(exam, found.build, scorer, out / model / RESULTS, model, processes, PATIENCE)
        for model, found in models.items()
    }
    report = report_on(name, benchmark, exam, out, command, _called(processes.device), records)
    write_summary(report)
    write_page(report)
    return report


def _refuse(scorer: Scorer, policy: PolicyConfig, exam: Exam) -> None:
    if complaint := policy.sampling_complaint(exam.steps):
        raise UserError(f"the benchmark has {exam.steps} steps: {complaint}")
    for label, card in scorer.cards.items():
        if card.compares:
            raise UserError(
                f"reward '{label}' compares the samples of a prompt with one another, so its scores say nothing of one model "
                "against another; leave it out of the benchmark"
            )
    scorer.require(policy.makes, f"policy '{policy.type}' makes")


def with_call(policy: PolicyConfig, benchmark: Benchmark) -> PolicyConfig:
    """The policy with what the benchmark pins of the pipeline's call."""
    if not benchmark.call:
        return policy
    if not isinstance(policy, DiffusersConfig):
        raise UserError(f"the benchmark is for pipelines, whose call it pins; policy '{policy.type}' has none")
    return policy.model_copy(update={"call": {**policy.call, **benchmark.call}})


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
