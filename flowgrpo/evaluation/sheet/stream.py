"""Samples from files through rewards, a batch in memory at a time. B samples, F frames, H, W pixels."""

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast, get_args

import numpy as np

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.digests import digest
from flowgrpo.core.errors import UserError
from flowgrpo.core.progress import bar
from flowgrpo.data.kinds import Kind
from flowgrpo.data.made import outputs_of
from flowgrpo.data.media import read
from flowgrpo.data.samples import Samples
from flowgrpo.evaluation.sheet.lines import Line
from flowgrpo.evaluation.sheet.source import Item
from flowgrpo.scoring.scorer import Scorer


@dataclass(frozen=True)
class Loaded:
    """Sample number `row`: a text, uint8 pixels [H, W, 3] or [F, H, W, 3], or why it can't be read."""

    row: int
    item: Item
    line: Line
    made: np.ndarray | str | UserError

    @property
    def alike(self) -> Hashable:
        """Equal for samples that fit into one batch."""
        return self.made.shape if isinstance(self.made, np.ndarray) else type(self.made).__name__

    @property
    def pictures(self) -> int:
        return len(self.made) if isinstance(self.made, np.ndarray) and self.made.ndim == 4 else 1


def load(row: int, item: Item, line: Line) -> Loaded:
    if isinstance(item.content, str):
        return Loaded(row, item, line, item.content)
    try:
        pixels = read(item.content, item.kind)
        line = _of_this(line, digest(item.content))
    except UserError as error:
        return Loaded(row, item, line, error)
    return Loaded(row, item, replace(line, kind="image" if pixels.ndim == 3 else "video"), pixels)


def _of_this(line: Line, sha256: str) -> Line:
    """Scores of another content are no scores of this one."""
    return line if line.sha256 == sha256 else replace(line, sha256=sha256, scores={})


def batches(loaded: Iterable[Loaded], limit: int) -> Iterator[list[Loaded]]:
    """Batches of samples that are alike. At most `limit` pictures, frames of clips and texts are held, or one longer clip.

    When so many are held, the oldest sample goes with all that are like it: samples of one size come in full batches, and
    none waits for long.
    """
    held: dict[Hashable, list[Loaded]] = {}
    count = 0
    for one in loaded:
        held.setdefault(one.alike, []).append(one)
        count += one.pictures
        while count >= limit:
            oldest = next(iter(held))
            count -= sum(sample.pictures for sample in held[oldest])
            yield held.pop(oldest)
    yield from held.values()


def together(batch: Sequence[Loaded]) -> Samples:
    """Each sample is a group of its own."""
    made = [one.made for one in batch]
    outputs = outputs_of(cast(list[str], made) if isinstance(made[0], str) else np.stack(cast(list[np.ndarray], made)))
    return Samples([one.item.prompt for one in batch], [one.item.row for one in batch], [one.row for one in batch], outputs)


class Judge:
    """Rewards by label, served ones asked at the same time. `seconds` and `judged`: how long each took for how many samples."""

    def __init__(self, rewards: Mapping[str, RewardConfig]) -> None:
        self.scorers = {label: Scorer({label: config}) for label, config in rewards.items()}
        self.served = [label for label, config in rewards.items() if config.url is not None]
        self.cards = {label: scorer.cards[label] for label, scorer in self.scorers.items()}
        for scorer in self.scorers.values():
            scorer.require(get_args(Kind), "files hold")
        for label, card in self.cards.items():
            if card.compares:
                raise UserError(f"reward '{label}' compares the samples of a prompt, and here every sample stands alone")
        self.seconds, self.judged = dict.fromkeys(rewards, 0.0), dict.fromkeys(rewards, 0)

    def __call__(self, batch: Sequence[Loaded]) -> dict[int, Line]:
        """The lines of a batch by row: a score, or what failed, for each reward that had no score."""
        lines = {one.row: replace(one.line, scores={**one.line.scores}, errors={}) for one in batch}
        if isinstance(batch[0].made, UserError):
            for one in batch:
                lines[one.row].errors.update(dict.fromkeys(self.lacking(one.line), str(one.made)))
            return lines
        samples = together(batch)
        with ThreadPoolExecutor() as pool:
            asked = {label: pool.submit(self._outcomes, label, replace(samples), lines) for label in self.served}
            for label in self.scorers:
                found = asked[label].result() if label in asked else self._outcomes(label, samples, lines)
                for row, outcome in found.items():
                    _note(lines[row], label, outcome)
        return lines

    def lacking(self, line: Line) -> list[str]:
        return [label for label in self.scorers if label not in line.scores]

    def _outcomes(self, label: str, samples: Samples, lines: Mapping[int, Line]) -> dict[int, float | UserError]:
        """By row, which are the groups, where there is no score yet."""
        places = [i for i, row in enumerate(samples.group) if label not in lines[row].scores]
        if not places:
            return {}
        chosen = samples if len(places) == len(samples) else samples.take(places)
        start = time.perf_counter()
        outcomes = self.scorers[label].attempt(chosen)[label]
        self.seconds[label] += time.perf_counter() - start
        self.judged[label] += len(places)
        return dict(zip(chosen.group, outcomes, strict=True))


def _note(line: Line, label: str, outcome: float | UserError) -> None:
    if isinstance(outcome, UserError):
        line.errors[label] = str(outcome)
    else:
        line.scores[label] = outcome


def scored(items: Sequence[Item], lines: Sequence[Line], judge: Judge, limit: int) -> Iterator[Line]:
    """Every sample's line, in order; what already has all scores is not read again."""
    todo = [row for row, line in enumerate(lines) if judge.lacking(line)]
    found: dict[int, Line] = {}
    fresh = map(judge, batches((load(row, items[row], lines[row]) for row in todo), limit))
    for row, line in enumerate(bar(lines, "score")):
        if judge.lacking(line):
            while row not in found:
                found.update(next(fresh))
            yield found.pop(row)
        else:
            yield line
