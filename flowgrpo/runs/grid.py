"""A grid: which value of one setting each recipe of a study takes, by runs of other seeds that are evaluated on other prompts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from flowgrpo.config.recipes import name_of
from flowgrpo.config.run import load_config
from flowgrpo.core.whole import write_json
from flowgrpo.data.prompts import load_prompts
from flowgrpo.pages.tables import markdown_table
from flowgrpo.runs.curve import curve_of
from flowgrpo.runs.folder import RunFolder
from flowgrpo.runs.study import Trial


@dataclass(frozen=True)
class Grid:
    """`values` of the setting `key`, as overrides have them; held-out scores on `prompts`, a file, decide between them."""

    key: str
    values: list[str]
    prompts: str
    seeds: list[int]

    def complaint(self, sources: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> str | None:
        """Why it can't choose for a study of these recipes and seeds, or None. Errors: UserError for prompts it can't read."""
        if len(set(self.values)) < 2:
            return f"--grid {self.key} needs at least two values, as in --grid optimizer.lr 1e-4 3e-4"
        if any(override.startswith(f"{self.key}=") for override in overrides):
            return f"{self.key} is given twice: as --grid, and as {self.key}=...; leave one of them out"
        if both := sorted({*seeds} & {*self.seeds}):
            return f"seed {both[0]} is in --seeds and in --grid-seeds; choose by other runs than those that are compared"
        load_prompts(self.prompts)
        for source in sources:
            evaluation = load_config(source, overrides).evaluation
            if evaluation and load_config(source, self.overrides(overrides, self.values[0])).evaluation == evaluation:
                return f"--grid-prompts are those on which {source} is compared; choose by other prompts"
        return None

    def overrides(self, overrides: Sequence[str], value: str) -> list[str]:
        return [*overrides, f"{self.key}={value}", f"evaluation.prompts={json.dumps(self.prompts)}"]

    def folder(self, out: Path, value: str) -> Path:
        return out / "grid" / quote(value, safe="")


@dataclass(frozen=True)
class Choice:
    """`scores` by recipe and value: the held-out mean after training, over the grid's seeds."""

    grid: Grid
    metric: str
    scores: dict[str, dict[str, float]]

    @property
    def taken(self) -> dict[str, str]:
        """The best value of each recipe; of equal ones the first."""
        return {source: max(scores, key=lambda value: scores[value]) for source, scores in self.scores.items()}

    @property
    def overrides(self) -> dict[str, list[str]]:
        return {source: [f"{self.grid.key}={value}"] for source, value in self.taken.items()}

    def markdown(self) -> str:
        rows = [["recipe", *self.grid.values, "takes"]]
        rows += [[name_of(s), *(f"{score:.4g}" for score in by.values()), self.taken[s]] for s, by in self.scores.items()]
        return "\n".join([markdown_table(rows), "", *(f"- {note}" for note in self._notes())])

    def _notes(self) -> Iterator[str]:
        grid, seeds = self.grid, " ".join(map(str, self.grid.seeds))
        yield f"Values of {grid.key}: {self.metric} after training, on {grid.prompts}, seeds {seeds}. Other prompts are compared."
        ends = {grid.values[0], grid.values[-1]} if len(grid.values) > 2 else set()
        if beyond := [name_of(source) for source, value in self.taken.items() if value in ends]:
            yield f"At an end of the grid, so that a value beyond it may be better: {', '.join(beyond)}."

    def write(self, out: Path) -> None:
        """`grid.json`."""
        named = {name_of(source): {"scores": by, "takes": self.taken[source]} for source, by in self.scores.items()}
        write_json(out / "grid.json", {**asdict(self.grid), "metric": self.metric, "recipes": named}, indent=1)


def choose(grid: Grid, trials: dict[str, list[Trial]]) -> Choice:
    """From the finished trials of each value."""
    curves = {value: [(t.source, curve_of(RunFolder(run))) for t in of if (run := t.finished())] for value, of in trials.items()}
    found: dict[str, dict[str, list[float]]] = {}
    for value, of in curves.items():
        for source, curve in of:
            assert curve.after is not None, "a finished run has its last evaluation"
            found.setdefault(source, {}).setdefault(value, []).append(float(curve.after.mean()))
    scores = {source: {value: float(np.mean(means)) for value, means in by.items()} for source, by in found.items()}
    return Choice(grid, curves[grid.values[0]][0][1].metric, scores)
