"""Rendered text: is what the prompt puts in quotes written in the picture?

With --file the prompts are those of Flow-GRPO's dataset/ocr/test.txt, a prompt a line, its text in double quotes; no checksum and
no count is known. Without, 320 are generated, always the same: ten things that carry one to four words, or a number.

`ocr` is the mean of the reward, one minus the share of characters that must be edited; `exact` the share of pictures where it is
1. Published figures are of Flow-GRPO's prompts, read by PaddleOCR, with other text in the picture forgiven.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.prompts import ocr as generated
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._official import lines, official, prompts
from flowgrpo.eval._own import numbered
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get dataset/ocr/test.txt from https://github.com/yifan123/flow_grpo"
METRIC = "ocr"
QUOTED = re.compile(r'"([^"]*\S[^"]*)"')


def load(path: Path | None) -> list[Prompt]:
    if path is None:
        return numbered(generated.benchmark())
    stated = lines(official(path, None, None, HINT))
    return prompts([_row(line, path, number) for number, line in enumerate(stated, 1)], None, path)


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    quoted = QUOTED.search(line)
    if quoted is None:
        raise UserError(f"{path}, prompt {number}: no text stands in double quotes; {HINT}")
    words = len(quoted[1].split())
    return {"prompt": line, "text": quoted[1], "length": f"{words} word{'s' if words > 1 else ''}"}


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    exact = {"exact": float((scores[METRIC] == 1.0).mean())}
    return means(scores) | exact | means_by("length", asked, scores, METRIC)


benchmark = Benchmark(
    summary="320 prompts with words and numbers to write, read by character recognition",
    source="flowgrpo, after Flow-GRPO (arXiv 2505.05470); with --file Flow-GRPO's prompts",
    licence="Apache-2.0; Flow-GRPO's prompts: MIT",
    load=load,
    rewards={METRIC: RewardConfig(use="ocr")},
    metric=METRIC,
    figures=figures,
    published={
        "SD3.5-M (arXiv 2505.05470)": {METRIC: 0.59},
        "SD3.5-M + Flow-GRPO (arXiv 2505.05470)": {METRIC: 0.92},
    },
)
