"""UniGenBench, English short prompts (arXiv 2508.20751, 2510.18701): 600 prompts with test points, four pictures a prompt.

The file is test_prompts_en.csv of CodeGoat24/UniGenBench, with the columns `index`, `prompt_en` and `sub_dims_en`: JSON whose
lists `Testpoints` and `Testpoint Description` belong together. The count is checked, no checksum is known. The long prompts,
test_prompts_en_long.csv, have the same form and can be given as well.

As in the official script, a dimension's figure is the share of its test points that are met, over all pictures; `overall` is the
mean of the dimensions. The official judge is Gemini 2.5 Pro, or the authors' UniGenBench-EvalModel, which is asked for all points
of a picture at once; here a vision-language model is asked for one point at a time. So figures are NOT comparable with published
ones.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import shares
from flowgrpo.eval._judge import JUDGED, judge
from flowgrpo.eval._official import official, prompts, table
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get data/test_prompts_en.csv from https://github.com/CodeGoat24/UniGenBench"
POINTS, DESCRIPTIONS = "Testpoints", "Testpoint Description"
DIMENSIONS = (
    "Style",
    "World Knowledge",
    "Attribute",
    "Action",
    "Relationship",
    "Compound",
    "Grammar",
    "Entity Layout",
    "Logical Reasoning",
    "Text Generation",
)
METRIC = "points"


def load(path: Path | str | None, count: int | None = 600) -> list[Prompt]:
    file = official(path, count, None, HINT)
    rows = table(file, ("index", "prompt_en", "sub_dims_en"))
    return prompts([{"prompt": row["prompt_en"]} | _points(row, file) for row in rows], count, file)


def _points(row: dict[str, str], file: Path) -> dict[str, Any]:
    try:
        stated = json.loads(row["sub_dims_en"])
        points = list(zip(stated[POINTS], stated[DESCRIPTIONS], strict=True))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}, prompt {row['index']}: sub_dims_en needs '{POINTS}' and as many '{DESCRIPTIONS}'") from error
    categories = [point.partition("-")[0].strip() for point, _ in points]
    if unknown := [category for category in categories if category not in DIMENSIONS]:
        raise UserError(f"{file}, prompt {row['index']}: '{unknown[0]}' is no dimension of UniGenBench; {HINT}")
    return {
        "points": [point for point, _ in points],
        "categories": categories,
        "questions": [_question(row["prompt_en"], point, description) for point, description in points],
    }


def _question(prompt: str, point: str, description: str) -> str:
    return f'The prompt was "{prompt}". Judge only the {point.lower()}: "{description}". Is that right in the picture?'


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    dimensions = shares(asked, scores, DIMENSIONS)
    return {"overall": float(np.mean(list(dimensions.values()))), METRIC: float(scores[METRIC].mean())} | dimensions


benchmark = Benchmark(
    summary=f"600 prompts with test points in ten dimensions, four pictures each, {JUDGED}",
    source="UniGenBench, arXiv 2508.20751; judged otherwise, so not comparable with published figures",
    licence="prompts: MIT",
    load=load,
    rewards={METRIC: judge("checklist:Share")}
    | {dimension: judge("checklist:Count", category=dimension) for dimension in DIMENSIONS},
    metric=METRIC,
    figures=figures,
    samples_per_prompt=4,
)
