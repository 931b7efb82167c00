"""A model takes a benchmark: batch by batch, what it made and scored is on the disk, and the same command goes on from there.

K samples per prompt. Batches never change, so an evaluation that was interrupted ends as if it had not been.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flowgrpo.core.errors import UserError
from flowgrpo.core.progress import bar
from flowgrpo.data.media import kept
from flowgrpo.data.prompts import Prompt, batches
from flowgrpo.data.samples import Shown
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
from flowgrpo.evaluation.benchmarks.records import Record, append_records, read_records, write_records
from flowgrpo.policies.protocol import Sampler
from flowgrpo.scoring.scorer import Scorer

Keep = Literal["first", "all"]
Known = Mapping[tuple[int, int], Record]
PATIENCE = 8
"""So many samples may fail, and none succeed, before a reward is given up."""


@dataclass(frozen=True)
class Place:
    """Sample number `sample` of a prompt, made with `seed`."""

    prompt: Prompt
    sample: int
    seed: int


@dataclass(frozen=True)
class Exam:
    """`prompts` of a benchmark, answered with `steps` steps, `batch` samples at once.

    `batch_key` says which prompts may share a batch.
    Sample k of the prompt in row i has the seed `seed` + i K + k. Of the K pictures of a prompt the first is kept, or all.
    """

    benchmark: Benchmark
    prompts: Sequence[Prompt]
    steps: int
    seed: int
    batch: int
    keep: Keep = "first"
    batch_key: Callable[[Prompt], Hashable] = lambda prompt: None

    @property
    def samples(self) -> int:
        return len(self.prompts) * self.benchmark.samples_per_prompt

    @property
    def batches(self) -> list[list[Place]]:
        places = [place for prompt in self.prompts for place in self._places(prompt)]
        rows = batches([place.prompt for place in places], self.batch, self.batch_key)
        return [[places[row] for row in batch] for batch in rows]

    def _places(self, prompt: Prompt) -> list[Place]:
        count = self.benchmark.samples_per_prompt
        return [Place(prompt, k, self.seed + prompt.index * count + k) for k in range(count)]


def take(exam: Exam, build: Callable[[], Sampler], scorer: Scorer, folder: Path, phase: str) -> list[Record]:
    """Records of all samples, in order. `build` loads the model, unless `folder` holds them all.

    A batch of which a sample is missing, or in which a reward failed, is made again.
    """
    file = folder / "scores.jsonl"
    known = {(record.row, record.sample): record for record in read_records(file)}
    missing = [batch for batch in exam.batches if not _whole(batch, known)]
    records = [known[_key(place)] for batch in exam.batches if _whole(batch, known) for place in batch]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        write_records(file, records)
        sampler = build()
        for batch in bar(missing, phase):
            found = _answers(exam, batch, sampler, scorer, folder)
            append_records(file, found)
            records += found
            _refuse_if_hopeless(records, scorer, exam.samples)
    return sorted(records, key=lambda record: (record.row, record.sample))


def _key(place: Place) -> tuple[int, int]:
    return place.prompt.index, place.sample


def _whole(batch: Sequence[Place], known: Known) -> bool:
    return all(_key(place) in known and not known[_key(place)].errors for place in batch)


def _answers(exam: Exam, batch: Sequence[Place], sampler: Sampler, scorer: Scorer, folder: Path) -> list[Record]:
    """Each sample is scored as a group of its own, so that one that fails takes no other with it."""
    made = sampler.generate([place.prompt for place in batch], [place.seed for place in batch], exam.steps)
    samples = replace(made, group=list(range(len(batch))))
    outcomes = scorer.attempt(samples)
    rows = [{label: values[i] for label, values in outcomes.items()} for i in range(len(batch))]
    return [_record(exam, *found, folder) for found in zip(batch, rows, samples.shown(), strict=True)]


def _record(exam: Exam, place: Place, outcome: Mapping[str, float | UserError], shown: Shown, folder: Path) -> Record:
    keeps = isinstance(shown, str) or exam.keep == "all" or place.sample == 0
    return Record(
        row=place.prompt.index,
        sample=place.sample,
        seed=place.seed,
        prompt=place.prompt.text,
        scores={label: score for label, score in outcome.items() if not isinstance(score, UserError)},
        errors={label: str(error) for label, error in outcome.items() if isinstance(error, UserError)},
        made=kept(shown, folder, f"{place.prompt.index:05d}-{place.sample}") if keeps else {},
    )


def _refuse_if_hopeless(records: Sequence[Record], scorer: Scorer, total: int) -> None:
    """Stop when a reward has failed on every sample so far."""
    for label in scorer.rewards:
        errors = [record.errors[label] for record in records if label in record.errors]
        if len(errors) == len(records) >= min(PATIENCE, total):
            raise UserError(f"reward '{label}' failed on all of the first {len(errors)} samples: {errors[0]}")
