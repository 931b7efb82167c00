"""Prompt samplers: which prompts an update is made of. N prompts in all."""

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component


class PromptSampler(Component):
    """A function of its arguments: every draw has a key."""

    needs_values: ClassVar[bool] = False
    """Whether it reads what prompts are worth, which some baselines track."""

    @abstractmethod
    def draw(self, count: int, update: int, seed: int, values: np.ndarray) -> np.ndarray:
        """`count` different numbers below N for an update. `values` [N] are the chances of the best reward, in [0, 1], as far as
        earlier updates tell; NaN for prompts that no update had."""


AnyPromptSampler = Annotated[SerializeAsAny[PromptSampler], component(PromptSampler)]
__getattr__, __dir__ = components_of(__name__)
