"""Samples through rewards, as a table."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from flowgrpo.api.rewards import Rewards, reward_configs
from flowgrpo.core.intervals import Interval, mean_interval
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


def score(samples: Samples | Path | str, rewards: Rewards, prompts: str | None = None, out: Path | str | None = None) -> Scores:
    """Scores of samples that were made here, or of files: a folder, a quoted glob or a JSONL, as for `flowgrpo score`.

    `rewards` by label: a shipped name, a function `(samples) -> one number each`, an object or class of such; higher is better.
    For files, `prompts` is the file with their prompts, and `out` a folder for scores.jsonl and report.html.

    Errors: UserError for a reward that fails on samples, returns what is no number, or leaves its range; on files it costs only
    their scores.

    >>> import torch
    >>> samples = Samples(["dark", "light"], [{}, {}], [0, 1], torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]))
    >>> scores = score(samples, {"bright": lambda samples: samples.images.mean((1, 2, 3))})
    >>> scores["bright"].tolist(), scores.mean("bright")
    ([0.0, 1.0], 0.5)
    """
    configs = reward_configs(rewards)
    if isinstance(samples, Samples):
        return Scores(Scorer(configs)(samples))
    with tempfile.TemporaryDirectory() as folder:
        _, lines = score_files(str(samples), prompts, configs, Path(out or folder), batch=16)
    return Scores({label: np.array([line.scores.get(label, np.nan) for line in lines]) for label in configs})
