"""GSM8K (arXiv 2110.14168): 1319 word problems of grade school, whose answers are judged exactly.

The file is test.jsonl of openai/grade-school-math, `{"question": ..., "answer": "... #### 72"}` a line. Its count is checked, no
checksum is known. The models get no examples. Published figures: table 1 of d1, 512 tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means
from flowgrpo.eval._maths import METRIC, REWARDS, instruction, rows_of
from flowgrpo.eval._official import prompts
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures
from flowgrpo.rewards.maths import MARK

HINT = "get grade_school_math/data/test.jsonl from https://github.com/openai/grade-school-math"
COUNT = 1319


def load(path: Path | None, count: int = COUNT) -> list[Prompt]:
    rows = rows_of(path, ("question", "answer"), count, HINT)
    return prompts([_asked(row, number) for number, row in enumerate(rows, 1)], count, str(path))


def _asked(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    _, mark, answer = str(row["answer"]).rpartition(MARK)
    if not mark or not answer.strip():
        raise UserError(f"problem {number} of GSM8K has no answer after '{MARK}'; {HINT}")
    return {"prompt": instruction(row["question"]), "answer": answer.strip()}


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores)


benchmark = Benchmark(
    summary="1319 word problems of grade school, without examples",
    source="Cobbe et al., arXiv 2110.14168",
    licence="problems: MIT",
    load=load,
    rewards=REWARDS,
    metric=METRIC,
    figures=figures,
    published={
        "LLaDA-8B-Instruct (arXiv 2504.12216)": {METRIC: 0.782},
        "d1-LLaDA (arXiv 2504.12216)": {METRIC: 0.821},
    },
)
