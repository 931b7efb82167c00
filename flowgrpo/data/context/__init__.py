"""Contexts: what a group of samples is asked, once a few tries at the plain prompt are known.

N tries of a prompt.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import PositiveInt, SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.data.prompts import Prompt


@dataclass(frozen=True)
class Turn:
    """`samples` of every prompt that is asked something; `judged` ones have rewards."""

    samples: int
    judged: bool = True


@dataclass(frozen=True)
class Replies:
    """What a prompt was asked in a turn, its answers [N], and their rewards [N], summed as for training; none where nobody judged
    them."""

    asked: str
    answers: list[str]
    rewards: np.ndarray


class Context(Component):
    """Before a group is rolled out, `tries` samples of its prompt are made and scored, and not trained on. Then the group answers
    what the context makes of them, and is trained on that. Held-out prompts are answered plainly.

    A context may ask for more turns than that one: it names them all in `turns`, and leaves out what a prompt has no need of.
    """

    answers_silence: ClassVar[bool] = False
    """Whether it is there for groups whose samples all earn the same."""
    begins: ClassVar[bool] = False
    """Whether the group's answers may have a given beginning."""
    tries: PositiveInt = 4

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All that there may be before a group."""
        return (Turn(self.tries),)

    def question(self, prompt: Prompt, so_far: Sequence[Replies]) -> str | None:
        """What a prompt is asked in the next turn; None where what is known is enough."""
        return None if so_far else prompt.text

    @abstractmethod
    def text(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        """What the group is asked, after these answers [N] to the last question, and their rewards [N]."""

    def final(self, prompt: Prompt, so_far: Sequence[Replies]) -> str:
        """What the group is asked after all turns."""
        return self.text(prompt, so_far[-1].answers, so_far[-1].rewards)

    def beginning(self, prompt: Prompt, so_far: Sequence[Replies], rng: np.random.Generator) -> str:
        """What each answer of the group begins with. It is given like the prompt, and not trained."""
        return ""

    def further(self, prompt: Prompt, so_far: Sequence[Replies]) -> str | None:
        """What `question` says, checked. Errors: UserError where it raises or gives something else."""
        with user_code(f"context '{self.type}'"):
            question = self.question(prompt, so_far)
        return None if question is None and so_far else self._checked(question, prompt)

    def asked(self, prompt: Prompt, so_far: Sequence[Replies], rng: np.random.Generator) -> Prompt:
        """The prompt as its group is asked, checked. Errors: UserError where the context raises or gives no text."""
        with user_code(f"context '{self.type}'"):
            text, begun = self.final(prompt, so_far), self.beginning(prompt, so_far, rng)
        if not isinstance(begun, str):
            raise UserError(f"context '{self.type}' must return a text as the beginning of answers to row {prompt.index + 1}")
        return replace(prompt, text=self._checked(text, prompt), begun=begun)

    def _checked(self, text: object, prompt: Prompt) -> str:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"context '{self.type}' must return a text for the prompt in row {prompt.index + 1}")
        return text

    def check(self, prompt: Prompt) -> None:
        """Errors: UserError where a prompt's row lacks what is read of it; all rows are checked before training."""


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with its {names} replaced; what is put in is no template."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in parts), lambda found: parts[found[0][1:-1]], template)


def require_names(template: str, *names: str) -> str:
    """Errors: ValueError for a template that lacks one of these {names}."""
    if any(f"{{{name}}}" not in template for name in names):
        raise ValueError("must hold " + " and ".join(f"{{{name}}}" for name in names))
    return template


AnyContext = Annotated[SerializeAsAny[Context], component(Context)]
__getattr__, __dir__ = components_of(__name__)
