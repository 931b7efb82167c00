"""Contexts: what a group of samples is asked, once a few tries at the plain prompt are known.

N tries of a prompt.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import PositiveInt, SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.data.prompts import Prompt


class Context(Component):
    """Before a group is rolled out, `tries` samples of its prompt are made and scored, and not trained on. Then the group answers
    what the context makes of them, and is trained on that. Held-out prompts are answered plainly."""

    answers_silence: ClassVar[bool] = False
    """Whether it is there for groups whose samples all earn the same."""
    tries: PositiveInt = 4

    @abstractmethod
    def text(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        """What the group is asked, after these answers [N] to the prompt, and their rewards [N], summed as for training."""

    def asked(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        """What `text` says, checked. Errors: UserError where it raises or gives no text."""
        with user_code(f"context '{self.type}'"):
            text = self.text(prompt, answers, rewards)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"context '{self.type}' must return a text for the prompt in row {prompt.index + 1}")
        return text

    def check(self, prompt: Prompt) -> None:
        """Errors: UserError where a prompt's row lacks what is read of it; all rows are checked before training."""


AnyContext = Annotated[SerializeAsAny[Context], component(Context)]
__getattr__, __dir__ = components_of(__name__)
