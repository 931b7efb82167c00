"""The benchmarks that ship, and those that a user names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import attribute, built_in_names, resolve
from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.benchmarks.benchmark import PACKAGE, Benchmark, Figures
from flowgrpo.scoring.chosen import with_arguments


def find_benchmark(spec: str) -> Benchmark:
    """A shipped name, `name:attr`, `file.py:attr`, `module:attr` or an entry point; without an attribute, `benchmark`."""
    module, attr = resolve(spec, PACKAGE)
    found = attribute(module, attr or "benchmark", spec)
    if not isinstance(found, Benchmark):
        kind = type(found).__name__
        raise UserError(f"'{spec}' is a {kind}, and must be a Benchmark (flowgrpo.evaluation.benchmarks.benchmark)")
    if found.metric not in found.rewards:
        raise UserError(f"'{spec}': its metric '{found.metric}' is not one of its rewards {sorted(found.rewards)}")
    return found


def name_of(spec: str) -> str:
    """What results are filed under: the module's name, with the attribute where that isn't `benchmark`."""
    module, _, attr = spec.partition(":")
    stem = Path(module).stem if module.endswith(".py") else module
    return stem if attr in ("", "benchmark") else f"{stem}-{attr}"


def listing() -> str:
    """All that ship, each with what it holds and where it comes from."""
    return "\n\n".join(_entry(name, find_benchmark(name)) for name in built_in_names(PACKAGE))


def _entry(name: str, benchmark: Benchmark) -> str:
    rewards = ", ".join(f"{label} ({reward.where})" for label, reward in benchmark.rewards.items())
    facts = {
        "prompts": _prompts(benchmark),
        "samples of each": benchmark.samples_per_prompt,
        "rewards": rewards,
        "source": benchmark.source,
        "licence": benchmark.licence,
    }
    return "\n".join([name, f"  {benchmark.summary}", *(f"  {key}: {fact}" for key, fact in facts.items())])


def _prompts(benchmark: Benchmark) -> str:
    """How many there are without a file of the user's; where they come in one, what `load` says of it."""
    try:
        return str(len(benchmark.load(None)))
    except UserError as error:
        return str(error)


def measuring(benchmark: Benchmark, rewards: Mapping[str, RewardConfig], arguments: Sequence[str]) -> Benchmark:
    """The benchmark with further rewards, whose means join its figures; `arguments` are `label.key=value` of any reward."""
    if twice := benchmark.rewards.keys() & rewards.keys():
        raise UserError(f"the benchmark measures '{min(twice)}' already")

    def figures(prompts: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
        own = benchmark.figures(prompts, {label: scores[label] for label in benchmark.rewards})
        return own | {label: float(scores[label].mean()) for label in rewards if len(prompts)}

    return replace(benchmark, rewards=with_arguments({**benchmark.rewards, **rewards}, arguments), figures=figures)
