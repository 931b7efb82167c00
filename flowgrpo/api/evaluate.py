"""Models on a benchmark, and runs against one another."""

import tempfile
from collections.abc import Mapping, Sequence
from copy import copy
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from flowgrpo.api.load import LoadedPolicy
from flowgrpo.api.rewards import Rewards, reward_configs
from flowgrpo.config.source import BATCH, read_source
from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT
from flowgrpo.core.whole import require_writable
from flowgrpo.data.samples import spread
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.catalogue import find_benchmark, measuring, name_of
from flowgrpo.evaluation.benchmarks.evaluate import Candidate, candidate, with_call
from flowgrpo.evaluation.benchmarks.evaluate import evaluate as evaluate_candidates
from flowgrpo.evaluation.benchmarks.report import Report
from flowgrpo.evaluation.exam import Exam
from flowgrpo.pages.page import framed
from flowgrpo.policies.diffusers._policy import PipelineSampler
from flowgrpo.policies.diffusers._runtime import denoisers
from flowgrpo.policies.masked._policy import MaskedSampler
from flowgrpo.runs.compare import Comparison
from flowgrpo.runs.compare import compare as compare_runs
from flowgrpo.runs.compare_page import markdown, page
from flowgrpo.runs.run import Run

Sampled = PipelineSampler | MaskedSampler
Model = LoadedPolicy | Sampled | Run | Path | str
"""A policy or sampler as it is now, a run's last weights, or a name that `flowgrpo sample` takes: a shipped model, a recipe, a
pipeline folder, a hub id."""
_temporary: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of reports that were given none; they go when Python ends."""


def evaluate(
    benchmark: Benchmark | str,
    models: Mapping[str, Model] | Sequence[Model],
    *,
    rewards: Rewards | None = None,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    batch: int = BATCH,
    file: Path | str | None = None,
    out: Path | str | None = None,
) -> Report:
    """Models on the same prompts and seeds, each compared with the first; print the report, or let a notebook show it.

    `benchmark` is a shipped name (`flowgrpo eval` lists them) or an object. `rewards` are measured besides. `limit` takes so many
    of the prompts, at even distances; `steps` are the benchmark's own, else the first model's. `out` is a folder for scores,
    pictures and report.html, where the same call goes on after an interruption.
    """
    exam_of = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    exam_of = measuring(exam_of, reward_configs(rewards) if rewards else {}, [])
    candidates = {name: _candidate(model, exam_of) for name, model in _named(models).items()}
    base = next(iter(candidates.values())).policy
    exam = Exam(
        prompts=spread(exam_of.load(Path(file) if file else None), limit),
        steps=exam_of.steps or steps or base.steps,
        seed=seed,
        batch=batch,
        batch_key=base.batch_key,
        samples_per_prompt=exam_of.samples_per_prompt,
    )
    name = name_of(benchmark) if isinstance(benchmark, str) else "benchmark"
    command = ["flowgrpo.evaluate", name, *candidates]
    return evaluate_candidates(name, exam_of, exam, candidates, _folder(out), command)


class RunComparison(Comparison):
    """Recipes against one another, to print or to look at in a notebook."""

    def __str__(self) -> str:
        return markdown(self)

    def _repr_html_(self) -> str:
        return framed(page(self))


def compare(runs: Sequence[Run | Path | str]) -> RunComparison:
    """Run folders, or folders of them: held-out gains with intervals, at the end and at equal cost; the first recipe is the
    baseline. Print it, or let a notebook show it. Errors: UserError for runs that can't be compared."""
    return RunComparison(**vars(compare_runs([run.path if isinstance(run, Run) else run for run in runs])))


def _folder(out: Path | str | None) -> Path:
    if out is not None:
        return require_writable(out, "out")
    _temporary.append(tempfile.TemporaryDirectory(prefix="flowgrpo-"))
    return Path(_temporary[-1].name)


def _named(models: Mapping[str, Model] | Sequence[Model]) -> dict[str, Model]:
    """The names under which results are filed."""
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        named = {}
        for model in models:
            name = _name(model)
            named[name if name not in named else f"{name}-{len(named) + 1}"] = model
    if not named:
        raise UserError("there is no model; pass at least one")
    return named


def _name(model: Model) -> str:
    if isinstance(model, Run):
        return model.name
    said = str(model) if isinstance(model, str | Path) else str(model.config.model_dump()["model"])
    return said.removeprefix(OBJECT).rstrip("/").split("/")[-1].replace(":", "-")


def _candidate(model: Model, benchmark: Benchmark) -> Candidate:
    if isinstance(model, Run):
        return candidate(with_call(model.config.policy, benchmark), model.weights)
    if isinstance(model, str | Path):
        return candidate(with_call(read_source(str(model), []).policy, benchmark))
    config, seen = with_call(model.config, benchmark), copy(model)
    vars(seen)["config"] = config
    return Candidate(config, lambda: seen, {"weights": _fingerprint(model)})


def _fingerprint(model: LoadedPolicy | Sampled) -> str:
    """Of what may have been trained of it."""
    if isinstance(model, LoadedPolicy):
        weights: Mapping[str, Tensor] = model.trainable()
    elif isinstance(model, PipelineSampler):
        parts = {name: part.state_dict() for name, part in denoisers(model.pipe).items()}
        weights = {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}
    else:
        weights = model.model.state_dict()
    return digest_of({name: sha256(w.detach().cpu().float().numpy().tobytes()).hexdigest() for name, w in weights.items()})
