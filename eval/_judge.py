"""The vision-language model that benchmarks of questions ask.

It is served on port 8000 here under the name `judge`, for example by `vllm serve MODEL --served-model-name judge`; another
is asked with `rewards.*.arguments.url=... rewards.*.arguments.model=...`. Whatever judges, its name belongs beside the figures.
"""

from typing import Any

from flowgrpo.config.run import RewardConfig

JUDGE = {"url": "http://127.0.0.1:8000/v1", "model": "judge"}
JUDGED = f"judged by the vision-language model that is served as '{JUDGE['model']}' at {JUDGE['url']}"


def judge(use: str, **arguments: Any) -> RewardConfig:
    return RewardConfig(use=use, arguments={**JUDGE, **arguments})
