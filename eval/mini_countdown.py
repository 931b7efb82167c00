"""The miniature of countdown: 500 problems of three digits that mini-mdlm has never seen, judged exactly. Seconds on a laptop.

With the steps of `mini-mdlm/trajectory`. `strict` is the share of answers that are right, `valid` of those that use exactly the
numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means
from flowgrpo.eval._own import shipped
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores)


benchmark = Benchmark(
    summary="500 held-out countdown problems of three digits, in the form of mini-mdlm's prompts",
    source="flowgrpo",
    licence="Apache-2.0",
    load=shipped("asset:mini-mdlm/prompts/held_out.jsonl.gz"),
    rewards={
        "strict": RewardConfig(use="arithmetic:countdown_strict"),
        "valid": RewardConfig(use="arithmetic:countdown_valid"),
    },
    metric="strict",
    figures=figures,
    samples_per_prompt=4,
    steps=4,
)
