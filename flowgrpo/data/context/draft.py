"""The best of a few drafts, to be made better (iGRPO, arXiv 2602.09000, reconstructed from its abstract)."""

from collections.abc import Sequence

import numpy as np
from pydantic import field_validator

from flowgrpo.data.context import Context, filled, require_names
from flowgrpo.data.prompts import Prompt


class Draft(Context):
    """The prompt with the try that has the highest reward, the first of several, as `template` puts them together."""

    template: str = "{prompt}\n\nA draft of the answer:\n{draft}\n\nWrite a better answer."

    @field_validator("template")
    @classmethod
    def _holds_both(cls, template: str) -> str:
        return require_names(template, "prompt", "draft")

    def text(self, prompt: Prompt, answers: Sequence[str], rewards: np.ndarray) -> str:
        return filled(self.template, {"prompt": prompt.text, "draft": answers[int(np.argmax(rewards))]})
