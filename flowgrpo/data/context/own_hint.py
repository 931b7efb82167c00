"""Hints that the model writes itself (SAGE, arXiv 2602.03143)."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator

from flowgrpo.data.context import Replies, Turn, filled, require_names
from flowgrpo.data.context.hint import Hint
from flowgrpo.data.prompts import Prompt


class OwnHint(Hint):
    """Where no try is right, the model is shown the text in the row's `column`, the right answer, and asked for a hint as the
    first of `requests` says; then the prompt is tried with that hint behind it. That goes on, with a hint that says more each
    time, until a try is right or no request is left. The group is asked what was tried last, and trained on that.

    Every hint is one sample. The words of the requests are ours.
    """

    column: str = "answer"
    requests: tuple[str, ...] = Field(
        default=(
            "{prompt}\n\nThe right answer:\n{answer}\n\nWithout saying it, name in a few words the idea that leads to it.",
            "{prompt}\n\nThe right answer:\n{answer}\n\nWithout saying it, write down the first step that leads to it.",
            "{prompt}\n\nThe right answer:\n{answer}\n\nWithout saying it, write down all steps that lead to it.",
        ),
        min_length=1,
    )

    @field_validator("requests")
    @classmethod
    def _hold_both(cls, requests: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(require_names(request, "prompt", "answer") for request in requests)

    @property
    def turns(self) -> tuple[Turn, ...]:
        return (Turn(self.tries), *(Turn(1, judged=False), Turn(self.tries)) * len(self.requests))

    def question(self, prompt: Prompt, so_far: Sequence[Replies]) -> str | None:
        if not so_far:
            return prompt.text
        if not self.turns[len(so_far) - 1].judged:
            return f"{prompt.text}{self.between}{so_far[-1].answers[0]}"
        if self.helped(so_far[-1].rewards) or len(so_far) == len(self.turns):
            return None
        parts = {"prompt": prompt.text, "answer": prompt.metadata[self.column]}
        return filled(self.requests[len(so_far) // 2], parts)

    def text(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        raise AssertionError("the group is asked what was tried last")

    def final(self, prompt: Prompt, so_far: Sequence[Replies]) -> str:
        return so_far[-1].asked
