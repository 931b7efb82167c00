"""One step from a fully masked canvas (diffu-GRPO of d1, arXiv 2504.12216)."""

import numpy as np
from pydantic import Field

from flowgrpo.sampling.likelihood import Likelihood, Masks


class OneStep(Likelihood):
    """log p_i = log p(y_i | all masked, prompt with each id masked with probability `prompt_mask`).

    A mean-field surrogate, far below the log-likelihood; clip ranges do not carry over to other likelihoods.
    """

    prompt_mask: float = Field(default=0.15, ge=0.0, lt=1.0)

    @property
    def states(self) -> int:
        return 1

    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        hidden = prompt & (rng.random(len(prompt)) < self.prompt_mask)
        return Masks(np.ones((1, len(answer)), bool), answer[None].astype(float), hidden[None])
