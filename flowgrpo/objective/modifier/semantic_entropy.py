"""Less for prompts to which every answer is another one (SEED-GRPO, arXiv 2505.12346, reconstructed)."""

import re
from collections import Counter
from math import log
from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.modifier import Modifier


class SemanticEntropy(Modifier):
    r"""A (1 - `weight` S / log G) with S = -sum p log p over the different answers of a group of G samples, p their shares.

    An answer is the whole text without blanks around it, or what the last match of `answer` holds, such as `(-?\d+)` for the
    last number. The paper takes a mean of -log p over the answers, with p the sum of the likelihoods of texts that a masked
    model has no exact ones of; so its weight of 0.02 would mean something else here, and ours is a guess.
    """

    weight: float = Field(default=0.5, ge=0.0, le=1.0)
    answer: str | None = None
    reads_texts: ClassVar[bool] = True

    @model_validator(mode="after")
    def _is_a_pattern(self) -> Self:
        try:
            re.compile(self.answer or "")
        except re.error as error:
            raise ValueError(f"answer = {self.answer!r} is no regular expression: {error}") from error
        return self

    def modify(self, tree: ScoredTree, advantage: np.ndarray) -> np.ndarray:
        count = len(tree.texts)
        if count < 2:
            return advantage
        shares = np.array([*Counter(map(self._answer, tree.texts)).values()]) / count
        return advantage * (1.0 + self.weight * float(shares @ np.log(shares)) / log(count))

    def _answer(self, text: str) -> str:
        found = [*re.finditer(self.answer, text)] if self.answer else []
        return (found[-1][found[-1].re.groups and 1] or "").strip() if found else text.strip()
