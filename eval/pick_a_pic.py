"""Pick-a-Pic (arXiv 2305.01569): the 500 captions of the split `test_unique`, one a user.

The dataset is published as parquet. Export the split, `load_dataset("yuvalkirstain/pickapic_v1_no_images",
split="test_unique").to_json("pick_a_pic.jsonl")`: one object a line, with the prompt under `caption`. The count is checked, and
there is no official export to take a checksum of. Captions are what users typed, and some are not safe for work. This reports the
means of reward models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means
from flowgrpo.eval._official import json_lines, official, prompts
from flowgrpo.eval._preferences import PREFERENCES
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "export the split test_unique of the dataset yuvalkirstain/pickapic_v1_no_images with to_json('pick_a_pic.jsonl')"


def load(path: Path | str | None, count: int | None = 500) -> list[Prompt]:
    file = official(path, count, None, HINT)
    rows = json_lines(file, ())
    return prompts([{"prompt": _caption(row, file, number)} for number, row in enumerate(rows, 1)], count, file)


def _caption(row: dict[str, Any], file: Path, number: int) -> str:
    caption = row.get("caption")
    if not isinstance(caption, str):
        raise UserError(f"{file}, row {number}: must be an object with a text under 'caption'; {HINT}")
    return caption.strip()


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores)


benchmark = Benchmark(
    summary="500 captions of users of a web application, scored by models of human preference",
    source="Pick-a-Pic, arXiv 2305.01569",
    licence="prompts: not stated on the dataset's card",
    load=load,
    rewards=PREFERENCES,
    metric="pickscore",
    figures=figures,
)
