"""A grid: which value of one setting each recipe of a study takes, by runs of other seeds that are evaluated on other prompts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import quote

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import write_json
from flowgrpo.data.prompts import load_prompts
from flowgrpo.pages.tables import markdown_table
from flowgrpo.runs.compare import Comparison
from flowgrpo.runs.study import Trial, differences, plan


@dataclass(frozen=True)
class Grid:
    """`values` of the setting `key`, as overrides have them; held-out scores on `prompts`, a file, decide between them."""

    key: str
    values: list[str]
    prompts: str
    seeds: list[int]

    def complaint(self, sources: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]) -> str | None:
        """Why it can't choose for a study of these recipes and seeds, or None. Errors: UserError for prompts it can't read."""
        if len(self.values) < 2:
            return f"--grid {self.key} needs at least two values, as in --grid optimizer.lr 1e-4 3e-4"
        if any(override.startswith(f"{self.key}=") for override in overrides):
            return f"{self.key} is given twice: as --grid, and as {self.key}=...; leave one of them out"
        if both := sorted({*seeds} & {*self.seeds}):
            return f"seed {both[0]} is in --seeds and in --grid-seeds; choose by other runs than those that are compared"
        chosen_by = _asked(self.prompts)
        for source in sources:
            evaluation = load_config(source, overrides).evaluation
            if evaluation and (shared := chosen_by & _asked(evaluation.prompts)):
                return f"{len(shared)} of the --grid-prompts are prompts on which {source} is compared; choose by other prompts"
        return None

    def trials(
        self, sources: Sequence[str], evaluations: int, points: int, overrides: Sequence[str], out: Path
    ) -> dict[str, list[Trial]]:
        """By value. Errors: UserError where values make no difference, or one in what is measured."""
        prompts = f"evaluation.prompts={json.dumps(self.prompts)}"
        tried = {
            value: plan(
                sources, self.seeds, evaluations, points, [*overrides, f"{self.key}={value}", prompts], self.folder(out, value)
            )
            for value in self.values
        }
        for (value, of), (other, others) in combinations(tried.items(), 2):
            for trial, beside in zip(of, others, strict=True):
                if differences(trial.config, beside.config):
                    raise UserError(f"--grid {self.key} changes what is measured of {trial.name}; name a setting of the training")
                if trial.config.model_copy(update={"output": ""}) == beside.config.model_copy(update={"output": ""}):
                    raise UserError(
                        f"--grid {self.key}: {trial.name} is the same with {value} and {other}; leave one out, or name another "
                        "setting (seed, updates and output are the study's own)"
                    )
        return tried

    def folder(self, out: Path, value: str) -> Path:
        return out / "grid" / quote(value, safe="")


def _asked(source: str) -> set[str]:
    return {repr((prompt.text, sorted(prompt.conditions.items()))) for prompt in load_prompts(source)}


@dataclass(frozen=True)
class Choice:
    """`scores` by recipe and value: the held-out mean after training, over the grid's seeds."""

    grid: Grid
    metric: str
    scores: dict[str, dict[str, float]]

    @property
    def taken(self) -> dict[str, str]:
        """The best value of each recipe; of equal ones the first."""
        return {recipe: max(scores, key=lambda value: scores[value]) for recipe, scores in self.scores.items()}

    @property
    def overrides(self) -> dict[str, list[str]]:
        """By recipe."""
        return {recipe: [f"{self.grid.key}={value}"] for recipe, value in self.taken.items()}

    def markdown(self) -> str:
        rows = [["recipe", *self.grid.values, "takes"]]
        rows += [[name, *(f"{score:.4g}" for score in by.values()), self.taken[name]] for name, by in self.scores.items()]
        return "\n".join([markdown_table(rows), "", *(f"- {note}" for note in self._notes())])

    def _notes(self) -> Iterator[str]:
        grid, seeds = self.grid, " ".join(map(str, self.grid.seeds))
        yield f"Values of {grid.key}: {self.metric} after training, on {grid.prompts}, seeds {seeds}. Other prompts are compared."
        ends = {grid.values[0], grid.values[-1]} if len(grid.values) > 2 else set()
        if beyond := [recipe for recipe, value in self.taken.items() if value in ends]:
            yield f"At an end of the grid, so that a value beyond it may be better: {', '.join(beyond)}."

    def write(self, out: Path) -> None:
        """`grid.json`."""
        named = {recipe: {"scores": by, "takes": self.taken[recipe]} for recipe, by in self.scores.items()}
        write_json(out / "grid.json", {**asdict(self.grid), "metric": self.metric, "recipes": named}, indent=1)


def choose(grid: Grid, comparisons: Mapping[str, Comparison]) -> Choice:
    """From the comparison of all recipes with each value."""
    scores: dict[str, dict[str, float]] = {}
    for value, comparison in comparisons.items():
        for recipe in comparison.recipes:
            assert recipe.after is not None, "all runs of a grid are finished"
            scores.setdefault(recipe.recipe, {})[value] = recipe.after
    return Choice(grid, next(iter(comparisons.values())).metric, scores)
