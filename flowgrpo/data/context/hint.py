"""A hint where no try was right (SAGE, arXiv 2602.03143, with one level of hints that come with the prompts)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.core.rounding import rounding
from flowgrpo.data.context import Context
from flowgrpo.data.prompts import Prompt


class Hint(Context):
    """The prompt as it is if any try has a reward of at least `right`, else with the text in the row's `column` behind it.

    The paper's hints are the model's own, and have levels that are tried one after the other: `own_hint`.
    """

    answers_silence: ClassVar[bool] = True
    column: str = "hint"
    right: float = 1.0
    between: str = "\n\n"

    def text(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        if self.helped(rewards):
            return prompt.text
        return f"{prompt.text}{self.between}{prompt.metadata[self.column]}"

    def helped(self, rewards: np.ndarray) -> bool:
        """Whether any of these tries is right."""
        return bool(rewards.max() >= self.right - rounding(np.array(self.right)))

    def check(self, prompt: Prompt) -> None:
        hint = prompt.metadata.get(self.column)
        if not isinstance(hint, str) or not hint.strip():
            raise UserError(
                f"the prompt row {prompt.index + 1} has no text under '{self.column}', which context '{self.type}' reads"
            )
