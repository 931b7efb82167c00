"""What a benchmark is: prompts, how they are answered, what judges the answers, and which figures come out.

N samples (prompts x samples per prompt).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.config.sections import RewardConfig
from flowgrpo.data.prompts import Prompt

PACKAGE = "flowgrpo.eval"
Figures = dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    """`load` reads the prompts, from the user's copy of the official file or folder where a path is given.

    Each prompt is answered `samples_per_prompt` times, with `steps` steps (None: the config's), and `call` on top of the
    config's call of the pipeline. `metric` is the label of the reward that checkpoints are compared by, `figures` turn one
    prompt per sample and the scores [N] by label into what the benchmark reports. `published` are figures by model, to
    compare with.
    """

    summary: str
    source: str
    licence: str
    load: Callable[[Path | None], list[Prompt]]
    rewards: Mapping[str, RewardConfig]
    metric: str
    figures: Callable[[Sequence[Prompt], Mapping[str, np.ndarray]], Figures]
    samples_per_prompt: int = 1
    steps: int | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Figures] = field(default_factory=dict)
