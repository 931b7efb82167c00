"""Which samples are compared: the same prompt and seed, answered by two candidates, sides at random."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from flowgrpo.core.digests import digest, digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key, numpy_generator
from flowgrpo.runs.folder import RunFolder, When

T = TypeVar("T")
UNTRAINED = "untrained"
Asked = tuple[str, int]
"""A prompt and a seed."""


@dataclass(frozen=True)
class Sample:
    """A text, or the file of a picture or clip."""

    kind: str
    content: str

    @cached_property
    def digest(self) -> str:
        return digest_of(self.content) if self.kind == "text" else digest(Path(self.content))


Samples = Mapping[Asked, Sample]


@dataclass(frozen=True)
class Pair:
    """`id` says nothing of who is on which side, and changes with what either shows."""

    id: str
    prompt: str
    seed: int
    left: str
    right: str
    samples: tuple[Sample, Sample]


@dataclass(frozen=True)
class Ballot:
    """Pairs in the order in which they are asked; `alike` more show the same on both sides, and are not."""

    candidates: tuple[str, ...]
    pairs: tuple[Pair, ...]
    alike: int

    @cached_property
    def by_id(self) -> dict[str, Pair]:
        return {pair.id: pair for pair in self.pairs}


def ballot(runs: Sequence[RunFolder]) -> Ballot:
    """Of one run, what it makes after training against before; of several, each one's after, and the untrained model's.

    All two of them are compared on the prompts and seeds that all have, one such pair after the other, so that whoever stops
    early has compared all about as often. Errors: UserError where a run has no samples, or nothing is to be compared.
    """
    found = _candidates(runs)
    shared = sorted(set.intersection(*(set(samples) for samples in found.values())))
    if not shared:
        raise UserError(
            f"{', '.join(found)} have no sample of the same prompt and seed in common; train them with the same "
            "evaluation.prompts, evaluation.seed and evaluation.pictures"
        )
    asked = {(a, b): _shuffled(shared, ("vote", "order", a, b)) for a, b in combinations(sorted(found), 2)}
    pairs = [
        _pair(asked[two][turn], *two, found)
        for turn in range(len(shared))
        for two in _shuffled(list(asked), ("vote", "turn", turn))
    ]
    differ = tuple(pair for pair in pairs if pair.samples[0].digest != pair.samples[1].digest)
    if not differ:
        raise UserError(f"{', '.join(found)} made the same of every prompt, so there is nothing to vote on")
    return Ballot(tuple(found), differ, len(pairs) - len(differ))


def _candidates(runs: Sequence[RunFolder]) -> dict[str, Samples]:
    """By name, the untrained model first."""
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two of the runs are called {twice[0]}; name each once, or rename a folder")
    after = {run.name: _samples(run, "after") for run in runs}
    before = {run.name: _samples(run, "before") for run in runs}
    return {**_untrained(before), **after}


def _untrained(before: Mapping[str, Samples]) -> dict[str, Samples]:
    """Runs of the same model began with the same samples: these are one candidate."""
    same: dict[str, list[str]] = defaultdict(list)
    shared = sorted(set.intersection(*(set(samples) for samples in before.values())))
    for name, samples in before.items():
        same[digest_of([samples[asked].digest for asked in shared])].append(name)
    firsts = [names[0] for names in same.values()]
    return {UNTRAINED if len(firsts) == 1 else f"{UNTRAINED} ({name})": before[name] for name in firsts}


def _samples(run: RunFolder, when: When) -> Samples:
    """Those that were kept. Errors: UserError where there are none."""
    folder, settings = run.samples(when), run.settings
    found = {}
    for record in run.records(when):
        for kind, content in record.shown.items():
            if kind == "text" or (folder / content).is_file():
                found[record.prompt, record.seed] = Sample(kind, content if kind == "text" else str(folder / content))
    if found:
        return found
    if not settings.get("evaluation"):
        raise UserError(f"{run} has no samples to compare, since it was trained without `evaluation`; set it, and train again")
    if when == "after" and run.records("before"):
        raise UserError(f"{run} has no samples of after training yet; wait for its end, or go on with --resume {run}")
    raise UserError(f"{run} has no samples of {when} training; were they removed, or is evaluation.pictures 0?")


def _shuffled(values: Sequence[T], key: Key) -> list[T]:
    return [values[i] for i in numpy_generator(key).permutation(len(values))]


def _pair(asked: Asked, a: str, b: str, found: Mapping[str, Samples]) -> Pair:
    prompt, seed = asked
    left, right = (a, b) if numpy_generator(("vote", "side", prompt, seed, a, b)).integers(2) else (b, a)
    samples = found[left][asked], found[right][asked]
    name = digest_of([prompt, seed, left, right, *(sample.digest for sample in samples)])[:16]
    return Pair(name, prompt, seed, left, right, samples)
