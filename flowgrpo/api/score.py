"""Samples through rewards, as a table."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from flowgrpo.api.rewards import Rewards, reward_configs
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import Interval, mean_interval
from flowgrpo.data.made import Made, as_samples, require_whole
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.samples import Samples
from flowgrpo.evaluation.sheet.score import score as score_files
from flowgrpo.pages.tables import markdown_table
from flowgrpo.scoring.scorer import Scorer


@dataclass(frozen=True)
class Scores(Mapping[str, np.ndarray]):
    """Scores [B] float64 by label, one for each sample; NaN where a reward failed on a file."""

    columns: Mapping[str, np.ndarray]

    def __getitem__(self, label: str) -> np.ndarray:
        return self.columns[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def mean(self, label: str) -> float:
        return float(np.nanmean(self[label]))

    def interval(self, label: str) -> Interval:
        """95 % interval of the mean over samples, by bootstrap."""
        return mean_interval(self[label][~np.isnan(self[label])])

    def rows(self) -> list[list[str]]:
        """Reward, mean, interval, number of samples."""
        header = ["reward", "mean", "95 % interval", "n"]
        return [header, *(self._row(label) for label in self)]

    def _row(self, label: str) -> list[str]:
        count = int((~np.isnan(self[label])).sum())
        low, high = (f"{end:.4g}" for end in self.interval(label)) if count else ("", "")
        return [label, f"{self.mean(label):.4g}" if count else "", f"{low} to {high}" if count else "", str(count)]

    def __str__(self) -> str:
        return markdown_table(self.rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows()]
        return f"<table><tr>{'</tr><tr>'.join(cells)}</tr></table>"


def score(
    samples: Samples | Made | Path | str,
    rewards: Rewards,
    prompts: Sequence[str | Prompt] | Path | str | None = None,
    out: Path | str | None = None,
) -> Scores:
    """Scores of what is at hand: samples of a rollout, pictures of PIL, tensors, arrays or texts (`data.made`); or of files, a
    folder, a quoted glob or a JSONL, as for `flowgrpo score`.

    `rewards` by label: a shipped name, a function `(samples) -> one number each`, an object or class of such; higher is better. A
    name, a function or a list of them needs no label.
    `prompts` are texts or rows of `load_prompts`, one for each sample, or the name of a file with them. Samples of a rollout have
    theirs. For files, `out` is a folder for scores.jsonl and report.html.

    Errors: UserError for pixels outside of [0, 1], and for a reward that fails on samples, returns what is no number, or leaves
    its range; on files it costs only their scores.

    >>> from PIL import Image
    >>> pictures = [Image.new("RGB", (8, 8), "black"), Image.new("RGB", (8, 8), "white")]
    >>> scores = score(pictures, {"bright": lambda samples: samples.images.mean((1, 2, 3))}, ["a dark room", "a light room"])
    >>> scores["bright"].tolist(), scores.mean("bright")
    ([0.0, 1.0], 0.5)
    """
    configs = reward_configs(rewards)
    if not isinstance(samples, str | Path):
        if out is not None:
            raise UserError("`out` is for the scores of files; leave it out")
        return Scores(Scorer(configs)(_held(samples, prompts)))
    if not isinstance(prompts, str | Path | None):
        raise UserError("the prompts of files are the name of a file with a prompt for each, or in NAME.txt beside each of them")
    prompts = None if prompts is None else str(prompts)
    with tempfile.TemporaryDirectory() as folder:
        _, lines = score_files(str(samples), prompts, configs, Path(out or folder), batch=16)
    return Scores({label: np.array([line.scores.get(label, np.nan) for line in lines]) for label in configs})


def _held(samples: Samples | Made, prompts: Sequence[str | Prompt] | Path | str | None) -> Samples:
    if isinstance(samples, Samples):
        if prompts is not None:
            raise UserError("samples have their prompts already; leave `prompts` out")
        require_whole(samples)
        return samples
    return as_samples(samples, load_prompts(str(prompts)) if isinstance(prompts, str | Path) else prompts)
