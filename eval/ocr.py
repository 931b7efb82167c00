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
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._official import lines, official, prompts
from flowgrpo.eval._own import distinct, numbered
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get dataset/ocr/test.txt from https://github.com/yifan123/flow_grpo"
CARRIERS = (
    'A street sign that says "{}"',
    'A shop window with the words "{}" painted on the glass',
    'A coffee mug with "{}" printed on it',
    'A birthday cake with "{}" written in icing',
    'A neon sign that glows "{}" at night',
    'A T-shirt with "{}" in bold letters',
    'A chalkboard in a classroom that reads "{}"',
    'The cover of an old book with the title "{}"',
    'A billboard beside a road that reads "{}"',
    'A wooden signpost in a forest with "{}" carved into it',
)
WORDS = (
    *("OPEN", "COFFEE", "GARDEN", "WINTER", "MARKET", "SILVER", "RIVER", "HAPPY", "NORTH", "LIGHT", "BREAD", "QUIET", "SUMMER"),
    *("TICKET", "ISLAND", "MUSIC", "DANGER", "CASTLE", "ORANGE", "FRESH", "FLOWER", "WELCOME", "STATION", "LIBRARY", "TODAY"),
    *("PLANET", "FUTURE", "SLOW", "DREAM", "HARBOR", "YELLOW", "PEOPLE", "FREE", "WATER", "NEVER", "FOREST", "MIDNIGHT"),
)
LENGTHS = {"1 word": 1, "2 words": 2, "3 words": 3, "4 words": 4}
EACH = 64
METRIC = "ocr"
QUOTED = re.compile(r'"([^"]*\S[^"]*)"')


def load(path: Path | None) -> list[Prompt]:
    if path is None:
        return numbered(rows())
    stated = lines(official(path, None, None, HINT))
    return prompts([_row(line, path, number) for number, line in enumerate(stated, 1)], None, path)


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    found = QUOTED.search(line)
    if found is None:
        raise UserError(f"{path}, prompt {number}: no text stands in double quotes; {HINT}")
    words = len(found[1].split())
    return {"prompt": line, "text": found[1], "length": f"{words} word{'s' if words > 1 else ''}"}


def rows() -> list[dict[str, Any]]:
    words = [row for name, count in LENGTHS.items() for row in _of_words(name, count)]
    rng = numpy_generator(("ocr", "number"))
    return words + distinct(lambda: _carried(rng, "number", str(rng.integers(10, 10_000))), EACH)


def _of_words(name: str, count: int) -> list[dict[str, Any]]:
    rng = numpy_generator(("ocr", name))
    return distinct(lambda: _carried(rng, name, " ".join(rng.choice(WORDS, count, replace=False))), EACH)


def _carried(rng: np.random.Generator, length: str, text: str) -> dict[str, Any]:
    return {"prompt": str(rng.choice(CARRIERS)).format(text), "text": text, "length": length}


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
