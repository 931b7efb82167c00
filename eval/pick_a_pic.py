"""Pick-a-Pic (arXiv 2305.01569): the 500 captions of the split `test_unique`, one a user.

The dataset is published as parquet. Export the split, `load_dataset("yuvalkirstain/pickapic_v1_no_images",
split="test_unique").to_json("pick_a_pic.jsonl")`: one object a line, with the prompt under `caption`. The count is checked, and
there is no official export to take a checksum of. Captions are what users typed, and some are not safe for work. This reports the
means of reward models.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means
from flowgrpo.eval._official import official, prompts, read
from flowgrpo.eval._preferences import PREFERENCES
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "export the split test_unique of the dataset yuvalkirstain/pickapic_v1_no_images with to_json('pick_a_pic.jsonl')"


def load(path: Path | str | None, count: int | None = 500) -> list[Prompt]:
    file = official(path, count, None, HINT)
    lines = [line for line in read(file).split("\n") if line.strip()]
    return prompts([{"prompt": _caption(line, file, number)} for number, line in enumerate(lines, 1)], count, file)


def _caption(line: str, file: Path, number: int) -> str:
    try:
        return json.loads(line)["caption"].strip()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}, line {number}: must be an object with a text under 'caption'; {HINT}") from error


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
