"""Countdown: reach a target with each of three or four numbers once. 512 generated problems, always the same, all solvable.

`strict` is the share of answers that are right, `valid` of those that use exactly the numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.data.prompts import Prompt, countdown
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._own import fixed
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

METRIC = "strict"


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("size", asked, scores, METRIC)


benchmark = Benchmark(
    summary="512 countdown problems of three and four numbers, as instructions for language models",
    source="flowgrpo",
    licence="Apache-2.0",
    load=fixed(countdown.benchmark),
    rewards={
        METRIC: RewardConfig(use="arithmetic:countdown_strict"),
        "valid": RewardConfig(use="arithmetic:countdown_valid"),
    },
    metric=METRIC,
    figures=figures,
)
