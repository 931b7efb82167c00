"""From the samples of several requests to their scores. H, W height and width, F frames."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Outputs, Samples
from flowgrpo.scoring.asking import Spoilt
from flowgrpo.scoring.card import UNSTATED
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.scoring.serving.pictures import Reader
from flowgrpo.scoring.serving.wire import Sample, Score


@dataclass(frozen=True)
class Received:
    """`output` is uint8 [3, H, W] or [F, 3, H, W], a text, or what is wrong with the sample."""

    prompt: str
    metadata: dict[str, Any]
    group: int
    output: Tensor | str | UserError

    @property
    def form(self) -> tuple[int, ...] | str:
        """Samples of one form can be scored together."""
        return tuple(self.output.shape) if isinstance(self.output, Tensor) else type(self.output).__name__


def receive(samples: Sequence[Sample], pixels: int) -> list[Received]:
    """The samples of one request, whose pictures may have `pixels` pixels in all."""
    reader = Reader(pixels)
    return [Received(s.prompt, s.metadata, s.group, _output(s, reader)) for s in samples]


def _output(sample: Sample, reader: Reader) -> Tensor | str | UserError:
    try:
        if sample.image is not None:
            return reader.picture(sample.image)
        return reader.clip(sample.frames) if sample.frames is not None else str(sample.text)
    except UserError as error:
        return error


def score(scorer: Scorer, requests: Sequence[Sequence[Received]]) -> list[list[Score]]:
    """For each request the scores of its samples; `scorer` has one reward.

    Groups of different requests stay apart. A reward that compares, or does not say, never sees a part of a group: if a
    sample can't be read, or differs in size, its whole group has no scores.
    """
    ((label, card),) = scorer.cards.items()
    samples = _renumbered(requests)
    outcomes = iter(_outcomes(scorer, label, _whole(samples) if card.compares or card is UNSTATED else samples))
    return [list(islice(outcomes, len(request))) for request in requests]


def _renumbered(requests: Sequence[Sequence[Received]]) -> list[Received]:
    numbers: dict[tuple[int, int], int] = {}
    return [
        replace(sample, group=numbers.setdefault((i, sample.group), len(numbers)))
        for i, request in enumerate(requests)
        for sample in request
    ]


def _whole(samples: list[Received]) -> list[Received]:
    forms = defaultdict(set)
    for sample in samples:
        forms[sample.group].add(sample.form)
    error = UserError("a sample of this group can't be read or has another size, and this reward needs whole groups")
    return [replace(s, output=error) if len(forms[s.group]) > 1 and not isinstance(s.output, UserError) else s for s in samples]


def _outcomes(scorer: Scorer, label: str, samples: list[Received]) -> list[Score]:
    forms = defaultdict(list)
    for row, sample in enumerate(samples):
        forms[sample.form].append(row)
    scores: dict[int, Score] = {}
    for rows in forms.values():
        alike = [samples[row] for row in rows]
        scores |= zip(rows, map(_score, _attempt(scorer, label, alike)), strict=True)
    return [scores[row] for row in range(len(samples))]


def _attempt(scorer: Scorer, label: str, alike: list[Received]) -> list[float | UserError]:
    errors = [sample.output for sample in alike if isinstance(sample.output, UserError)]
    try:
        return [*errors] or scorer.attempt(_joined(alike))[label]
    except Spoilt as error:
        return [error] * len(alike)


def _joined(alike: list[Received]) -> Samples:
    pictures = [sample.output for sample in alike if isinstance(sample.output, Tensor)]
    outputs: Outputs = torch.stack(pictures).float().div_(255) if pictures else [str(sample.output) for sample in alike]
    return Samples([s.prompt for s in alike], [s.metadata for s in alike], [s.group for s in alike], outputs)


def _score(outcome: float | UserError) -> Score:
    return Score(error=str(outcome)) if isinstance(outcome, UserError) else Score(score=outcome)
