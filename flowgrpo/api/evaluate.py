"""Models on a benchmark, and runs against one another."""

import tempfile
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from flowgrpo.api.load import LoadedPolicy
from flowgrpo.api.rewards import Rewards, reward_configs
from flowgrpo.config.source import BATCH, Source, read_source
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT
from flowgrpo.core.whole import require_writable
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.catalogue import find_benchmark, measuring, name_of
from flowgrpo.evaluation.benchmarks.evaluate import Candidate, candidate, exam_of, with_call
from flowgrpo.evaluation.benchmarks.evaluate import evaluate as evaluate_candidates
from flowgrpo.evaluation.benchmarks.report import Report
from flowgrpo.pages.page import framed
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies._weights import digest_of_weights
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
    models: Mapping[str, Model] | Sequence[Model] | Model,
    *,
    rewards: Rewards | None = None,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    batch: int | None = None,
    file: Path | str | None = None,
    out: Path | str | None = None,
) -> Report:
    """Models on the same prompts and seeds, each compared with the first; print the report, or let a notebook show it.

    `benchmark` is a shipped name (`flowgrpo eval` lists them) or an object. `rewards` are measured besides. `limit` takes so many
    of the prompts, at even distances. Without `steps` and `batch` they are those of the first model's held-out evaluation, as for
    `flowgrpo eval`, or of a policy's rollouts; a benchmark may have steps of its own. `out` is a folder for scores, pictures and
    report.html, where the same call goes on after an interruption.
    """
    asked = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    asked = measuring(asked, reward_configs(rewards) if rewards else {}, [])
    if steps and asked.steps not in (None, steps):
        raise UserError(f"the benchmark has {asked.steps} steps of its own; leave out steps = {steps}")
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit} leaves no prompt; it must be at least 1")
    named = _named(models)
    sources = {name: _source(model) for name, model in named.items()}
    candidates = {name: _candidate(model, with_call(sources[name].policy, asked)) for name, model in named.items()}
    first = next(iter(sources.values()))
    exam = exam_of(asked, replace(first, steps=steps or first.steps), Path(file) if file else None, limit, seed, batch)
    called = name_of(benchmark) if isinstance(benchmark, str) else "benchmark"
    return evaluate_candidates(called, asked, exam, candidates, _folder(out), ["flowgrpo.evaluate", called, *candidates])


class RunComparison(Comparison):
    """Recipes against one another, to print or to look at in a notebook."""

    def __str__(self) -> str:
        return markdown(self)

    def _repr_html_(self) -> str:
        return framed(page(self))


def compare(runs: Sequence[Run | Path | str] | Run | Path | str) -> RunComparison:
    """Runs, their folders, or folders of them: held-out gains with intervals, at the end and at equal cost; the first recipe is
    the baseline. Print it, or let a notebook show it. Errors: UserError for runs that can't be compared."""
    several = [runs] if isinstance(runs, Run | Path | str) else runs
    return RunComparison(**vars(compare_runs([run.path if isinstance(run, Run) else run for run in several])))


def _folder(out: Path | str | None) -> Path:
    if out is not None:
        return require_writable(out, "out")
    _temporary.append(tempfile.TemporaryDirectory(prefix="flowgrpo-"))
    return Path(_temporary[-1].name)


def _named(models: Mapping[str, Model] | Sequence[Model] | Model) -> dict[str, Model]:
    """The names under which results are filed."""
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        named = {}
        for model in [models] if isinstance(models, Model) else models:
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


def _source(model: Model) -> Source:
    """Its policy, and how it makes samples where nothing else is said."""
    if isinstance(model, Run):
        return read_source(str(model.path / "config.yaml"), [])
    if isinstance(model, str | Path):
        return read_source(str(model), [])
    return Source(model.config, model.config.steps, BATCH)


def _candidate(model: Model, policy: PolicyConfig) -> Candidate:
    """With this policy, the benchmark's call in it."""
    if isinstance(model, Run):
        return candidate(policy, model.weights)
    if isinstance(model, str | Path):
        return candidate(policy)
    seen = copy(model)
    vars(seen)["config"] = policy
    return Candidate(policy, lambda: seen, {"weights": digest_of_weights(_weights(model))})


def _weights(model: LoadedPolicy | Sampled) -> Mapping[str, Tensor]:
    """What may have been trained of it."""
    if isinstance(model, LoadedPolicy):
        return model.trainable()
    if isinstance(model, PipelineSampler):
        parts = {name: part.state_dict() for name, part in denoisers(model.pipe).items()}
        return {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}
    return model.model.state_dict()
