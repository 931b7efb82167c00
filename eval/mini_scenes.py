"""The miniature suite: held-out prompts of drawn scenes, in GenEval's six task types, judged exactly. A minute on a laptop.

With the steps of the quickstart. `strict` is the share of pictures in which every stated fact holds and nothing else is there.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._own import shipped
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

METRIC = "strict"


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("tag", asked, scores, METRIC)


benchmark = Benchmark(
    summary="300 held-out prompts of drawn scenes, for mini-sd3 and mini-amused",
    source="flowgrpo, after GenEval's task types (arXiv 2310.11513)",
    licence="Apache-2.0",
    load=shipped("asset:mini-sd3/prompts/held_out.jsonl.gz"),
    rewards={METRIC: RewardConfig(use="scene:strict"), "soft": RewardConfig(use="scene:soft")},
    metric=METRIC,
    figures=figures,
    samples_per_prompt=4,
    steps=5,
)
