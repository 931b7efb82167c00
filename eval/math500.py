"""MATH-500 (arXiv 2305.20050): 500 problems of competitions in seven subjects and five levels, whose answers are judged exactly.

The file is test.jsonl of HuggingFaceH4/MATH-500, `{"problem", "answer", "subject", "level", ...}` a line. Its count is checked,
no checksum is known. The models get no examples. Published figures: table 1 of d1, 512 tokens. An answer that is no number, such
as an interval, is compared as a normalised string; another way to write it counts as wrong.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._maths import METRIC, REWARDS, instruction, rows_of
from flowgrpo.eval._official import prompts
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get test.jsonl from https://huggingface.co/datasets/HuggingFaceH4/MATH-500 (or name hf:HuggingFaceH4/MATH-500/test.jsonl)"
COUNT = 500
KEYS = ("problem", "answer", "subject", "level")


def load(path: Path | None, count: int = COUNT) -> list[Prompt]:
    rows = rows_of(path, KEYS, count, HINT)
    asked = [
        {
            "prompt": instruction(row["problem"]),
            "answer": str(row["answer"]),
            "subject": row["subject"],
            "level": f"level {row['level']}",
        }
        for row in rows
    ]
    return prompts(asked, count, str(path))


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    by_level, by_subject = (means_by(key, asked, scores, METRIC) for key in ("level", "subject"))
    return means(scores) | dict(sorted(by_level.items())) | dict(sorted(by_subject.items()))


benchmark = Benchmark(
    summary="500 problems of competitions in seven subjects and five levels, without examples",
    source="Lightman et al., arXiv 2305.20050, from MATH, arXiv 2103.03874",
    licence="problems: MIT",
    load=load,
    rewards=REWARDS,
    metric=METRIC,
    figures=figures,
    published={
        "LLaDA-8B-Instruct (arXiv 2504.12216)": {METRIC: 0.362},
        "d1-LLaDA (arXiv 2504.12216)": {METRIC: 0.402},
    },
)
