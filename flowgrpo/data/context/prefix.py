"""Answers that begin as a good one did (ReST-GRPO, arXiv 2508.19576)."""

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from flowgrpo.core.rounding import rounding
from flowgrpo.data.context import Context, Replies
from flowgrpo.data.prompts import Prompt


class Prefix(Context):
    """The prompt as it is. Where the best try, the first of several, earns `good` or more, all answers of the group begin with a
    part of it, which ends behind a match of the regular expression `cut`: a line, as published, or "." for any character. The
    i-th such part is drawn with the weight `decay`^i, and i = 0 is no part at all.

    The ids of a beginning are set before the first step, and no kernel that ships masks them again. The published code adds the
    parts of a prompt's answer, the whole one too, to the prompts of a later training; here one is drawn at each visit.
    """

    begins: ClassVar[bool] = True
    good: float = 0.9
    decay: float = Field(default=0.95, gt=0.0, le=1.0)
    cut: str = "\n"

    @field_validator("cut")
    @classmethod
    def _is_a_pattern(cls, cut: str) -> str:
        try:
            re.compile(cut)
        except re.error as error:
            raise ValueError(f"'{cut}' is no regular expression ({error})") from error
        return cut

    def text(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        return prompt.text

    def beginning(self, prompt: Prompt, so_far: Sequence[Replies], rng: np.random.Generator) -> str:
        tries = so_far[-1]
        best = tries.answers[int(np.argmax(tries.rewards))]
        if tries.rewards.max() < self.good - rounding(np.array(self.good)):
            return ""
        ends = [0, *(end for end in dict.fromkeys(m.end() for m in re.finditer(self.cut, best)) if 0 < end < len(best))]
        weights = self.decay ** np.arange(len(ends))
        return best[: ends[rng.choice(len(ends), p=weights / weights.sum())]]
