"""DPG-Bench (ELLA, arXiv 2403.05135): 1065 dense prompts with the questions of a scene graph each, four pictures a prompt.

The folder is `dpg_bench` of TencentQQGYLab/ELLA: `prompts/ITEM.txt`, and dpg_bench.csv with a row a question, of which are read
`item_id`, `proposition_id`, `dependency` (the ids of its parents, 0 for none), `tuple` (which begins with the category) and
`question_natural_language`. The count of prompts is checked, no checksum is known.

`dpg` is the share of a picture's questions that are answered yes, where one with a failed parent fails too. The five categories
are shares of all answers as given, without that rule. So it is in the official script, except that it skips the first row of the
file and takes the categories from the last picture of each prompt alone. Its questions are answered by mPLUG-large: with another
model, figures are NOT comparable with published ones.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import shares
from flowgrpo.eval._judge import JUDGED, judge
from flowgrpo.eval._official import member, official, prompts, read, table
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get the folder dpg_bench of https://github.com/TencentQQGYLab/ELLA"
COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
CATEGORIES = ("global", "entity", "attribute", "relation", "other")
METRIC = "dpg"

Rows = dict[int, dict[str, str]]
"""The rows of an item's questions by their id."""


def load(folder: Path | str | None, count: int | None = 1065) -> list[Prompt]:
    items = _items(official(member(folder, "dpg_bench.csv"), count, None, HINT))
    files = sorted(official(member(folder, "prompts"), count, None, HINT).glob("*.txt"))
    if missing := [file.name for file in files if file.stem not in items]:
        raise UserError(f"dpg_bench.csv in {folder} has no questions for prompts/{missing[0]}; {HINT}")
    rows = [{"prompt": read(file).strip(), "item": file.stem} | _graph(items[file.stem]) for file in files]
    return prompts(rows, count, str(folder))


def _items(file: Path) -> dict[str, Rows]:
    items: dict[str, Rows] = defaultdict(dict)
    for number, row in enumerate(table(file, COLUMNS), 1):
        if not re.fullmatch(r"\d+", row["proposition_id"]) or not re.fullmatch(r"\d+(\s*,\s*\d+)*", row["dependency"]):
            raise UserError(f"{file}, row {number}: proposition_id must be a number and dependency a list of such; {HINT}")
        items[row["item_id"]][int(row["proposition_id"])] = row
    return items


def _graph(rows: Rows) -> dict[str, Any]:
    """Questions, their categories, and their parents as places in this list; parents that the file lacks, such as 0, are none."""
    places = {number: place for place, number in enumerate(rows)}
    parents = [[int(number) for number in row["dependency"].split(",")] for row in rows.values()]
    return {
        "questions": [row["question_natural_language"] for row in rows.values()],
        "categories": [re.split(r"[-(]", row["tuple"])[0].strip().lower() for row in rows.values()],
        "parents": [[places[number] for number in numbers if number in places] for numbers in parents],
    }


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return {METRIC: float(scores[METRIC].mean())} | shares(asked, scores, CATEGORIES)


benchmark = Benchmark(
    summary=f"1065 dense prompts with the questions of scene graphs, four pictures each, {JUDGED}",
    source="ELLA, arXiv 2403.05135; other models than mPLUG-large give figures that can't be compared with published ones",
    licence="prompts: see github.com/TencentQQGYLab/ELLA",
    load=load,
    rewards={METRIC: judge("checklist:Share")}
    | {category: judge("checklist:Count", category=category) for category in CATEGORIES},
    metric=METRIC,
    figures=figures,
    samples_per_prompt=4,
)
