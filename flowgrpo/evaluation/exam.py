"""A model answers prompts: batch by batch, what it made and scored is on the disk, and the same call goes on from there.

K samples per prompt. Batches never change, so an exam that was interrupted ends as if it had not been.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.data.kinds import Reads
from flowgrpo.data.media import save_sample
from flowgrpo.data.prompts import Prompt, batches
from flowgrpo.data.records import Record, append_records, read_records, write_records
from flowgrpo.data.samples import Samples, Shown
from flowgrpo.policies.protocol import Sampler
from flowgrpo.scoring.scorer import Scorer

Keep = Literal["first", "all"]
Scores = dict[str, list[float | UserError]]
Answer = tuple["Question", dict[str, float | UserError], Shown | None]
PATIENCE = 8
"""So many samples may fail, and none succeed, before a reward is given up."""


@dataclass(frozen=True)
class Question:
    """Sample number `sample` of a prompt, made with `seed`."""

    prompt: Prompt
    sample: int
    seed: int

    @property
    def key(self) -> tuple[int, int]:
        return self.prompt.index, self.sample


@dataclass(frozen=True)
class Exam:
    """`prompts`, answered `samples_per_prompt` (K) times each with `steps` steps, `batch` samples at once.

    `batch_key` says which prompts may share a batch (`PolicyConfig`). Sample k of the prompt in row i has the seed
    `seed` + i K + k. Kept to look at are samples of the prompts in the rows `pictured` (None: of all), the `first` of each or
    `all` K; texts are all kept.
    """

    prompts: Sequence[Prompt]
    steps: int
    seed: int
    batch: int
    batch_key: Callable[[Prompt], Hashable] = lambda prompt: None
    samples_per_prompt: int = 1
    pictured: Collection[int] | None = None
    keep: Keep = "first"

    @cached_property
    def batches(self) -> list[list[Question]]:
        questions = [question for prompt in self.prompts for question in self._of(prompt)]
        rows = batches([question.prompt for question in questions], self.batch, self.batch_key)
        return [[questions[row] for row in batch] for batch in rows]

    def _of(self, prompt: Prompt) -> list[Question]:
        count = self.samples_per_prompt
        return [Question(prompt, k, self.seed + prompt.index * count + k) for k in range(count)]

    @property
    def count(self) -> int:
        return len(self.prompts) * self.samples_per_prompt

    def name(self, question: Question) -> str:
        """Of its file."""
        row, sample = question.key
        return f"{row:05d}" if self.samples_per_prompt == 1 else f"{row:05d}-{sample}"

    def keeps(self, question: Question, kind: Reads) -> bool:
        pictured = self.pictured is None or question.prompt.index in self.pictured
        return pictured and (kind == "texts" or self.keep == "all" or question.sample == 0)

    def samples(self, batch: Sequence[Question], sampler: Sampler, latents: bool) -> Samples:
        """A batch's samples, each a group of its own, so that one that fails takes no other with it; with their `latents` or
        without."""
        made = sampler.generate([q.prompt for q in batch], [q.seed for q in batch], self.steps, latents)
        return replace(made, group=list(range(len(batch))))


def answer(
    exam: Exam,
    build: Callable[[], Sampler],
    scorer: Scorer,
    file: Path,
    phase: str,
    processes: Processes,
    patience: int = 0,
    meet: Callable[[], object] = lambda: None,
) -> list[Record]:
    """Records of all samples in order of rows, written to `file`, pictures and clips beside it. `build` loads the model, unless
    the file holds all records.

    A batch of which a sample is missing, or in which a reward failed, is made again. The main process alone reads and writes.
    Errors: UserError of the first score that fails; with `patience`, only where a reward has failed on so many, and on all;
    what `meet` raises, which every process calls after each round of batches.
    """
    known = {record.key: record for record in processes.once(partial(read_records, file))}
    missing = [batch for batch in exam.batches if not _whole(batch, known)]
    records = [known[question.key] for batch in exam.batches if _whole(batch, known) for question in batch]
    if missing:
        processes.once(partial(write_records, file, records))
        sampler, answered = build(), partial(_answers, exam, scorer, patience > 0)
        for rounds in bar(processes.rounds(missing), phase, processes.is_main):
            made = [(batch, exam.samples(batch, sampler, scorer.reads_latents)) for batch in processes.share(rounds)]
            answers = processes.gather_made(partial(answered, made))
            records += processes.once(partial(_write, exam, answers, file))
            _refuse_if_hopeless(records, scorer, min(patience, exam.count))
            meet()
    return sorted(records, key=lambda record: record.key)


def _whole(batch: Sequence[Question], known: Mapping[tuple[int, int], Record]) -> bool:
    return all(question.key in known and not known[question.key].errors for question in batch)


def _answers(exam: Exam, scorer: Scorer, tolerant: bool, made: Sequence[tuple[Sequence[Question], Samples]]) -> list[Answer]:
    return [answer for batch, samples in made for answer in _of_batch(exam, scorer, tolerant, batch, samples)]


def _of_batch(exam: Exam, scorer: Scorer, tolerant: bool, batch: Sequence[Question], samples: Samples) -> list[Answer]:
    scores = _scores(scorer, tolerant, samples)
    rows = [{label: values[i] for label, values in scores.items()} for i in range(len(batch))]
    keeps = [exam.keeps(question, samples.kind) for question in batch]
    shown = [samples[i : i + 1].shown()[0] if keep else None for i, keep in enumerate(keeps)]
    return list(zip(batch, rows, shown, strict=True))


def _scores(scorer: Scorer, tolerant: bool, samples: Samples) -> Scores:
    if tolerant:
        return scorer.attempt(samples, scorer.alone)
    return {label: values.tolist() for label, values in scorer(samples, scorer.alone).items()}


def _write(exam: Exam, answers: Sequence[Answer], file: Path) -> list[Record]:
    records = [_record(exam, *one, file.parent) for one in answers]
    append_records(file, records)
    return records


def _record(exam: Exam, question: Question, scores: Mapping[str, float | UserError], shown: Shown | None, folder: Path) -> Record:
    return Record(
        row=question.prompt.index,
        sample=question.sample,
        seed=question.seed,
        metadata=question.prompt.metadata,
        shown={} if shown is None else save_sample(shown, folder, exam.name(question)),
        scores={label: score for label, score in scores.items() if not isinstance(score, UserError)},
        errors={label: str(error) for label, error in scores.items() if isinstance(error, UserError)},
    )


def _refuse_if_hopeless(records: Sequence[Record], scorer: Scorer, patience: int) -> None:
    """Stop when a reward has failed on every sample so far, and they are many."""
    for label in scorer.rewards:
        errors = [record.errors[label] for record in records if label in record.errors]
        if errors and len(errors) == len(records) >= patience:
            raise UserError(f"reward '{label}' failed on all of the first {len(errors)} samples: {errors[0]}")
