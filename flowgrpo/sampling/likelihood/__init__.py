"""Likelihoods: how the log-prob of a completed canvas is estimated. `trajectory` scores the steps that made it; the others mask
the outcome anew and score it as a whole, under masks that are drawn once and stay with the batch.

Shapes: C outcomes, K states each, L positions, P prompt positions.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component

Level = Literal["decision", "sum", "mean"]


@dataclass(frozen=True)
class Masks:
    """For one outcome: `masked` [K, L] positions to mask in each state, `weights` [K, L] of log p(id | state) in the log-prob,
    and `prompt` [K, P] prompt positions to mask."""

    masked: np.ndarray
    weights: np.ndarray
    prompt: np.ndarray


class Likelihood(Component):
    """log p(y) ~ sum over states k and positions i of weights[k, i] log p(y_i | state k).

    `level`: every position is a decision with a ratio of its own; or the outcome is one decision, whose log-prob is the `sum`
    over its positions, or their `mean` (GSPO, arXiv 2507.18071; ESPO).
    `alike`: answers of a group that are as long are masked at the same positions, so that masks do not tell them apart.
    """

    level: Level = "decision"
    alike: bool = False

    @property
    def states(self) -> int:
        """K network evaluations an outcome, 0 when the transitions are scored that made it."""
        return 0

    def complaint(self, length: int) -> str | None:
        """Why completions of this length can't be scored, or None."""
        return None

    @abstractmethod
    def masks(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        """`answer` [L] and `prompt` [P] are True where there are ids that count (no padding, nothing behind the end of text)."""

    def checked(self, answer: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> Masks:
        """The `masks`. Errors: UserError where they raise or have another form."""
        with user_code(f"likelihood '{self.type}'"):
            masks = self.masks(answer, prompt, rng)
        if not isinstance(masks, Masks):
            raise UserError(f"likelihood '{self.type}' returned a {type(masks).__name__}, and must return Masks")
        columns = {"masked": (masks.masked, answer), "weights": (masks.weights, answer), "prompt": (masks.prompt, prompt)}
        for name, (values, positions) in columns.items():
            shape = (self.states, len(positions))
            if not isinstance(values, np.ndarray) or values.shape != shape or (name != "weights" and values.dtype != bool):
                kind = "numbers" if name == "weights" else "booleans"
                raise UserError(f"likelihood '{self.type}' must return {name} as an array of {shape[0]} x {shape[1]} {kind}")
        if not np.isfinite(masks.weights).all():
            raise NotFinite(f"likelihood '{self.type}' returned a weight that is no number")
        return masks


def complementary(chosen: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """[2, L]: the chosen positions of the answer, and its other ones."""
    return np.stack([chosen & answer, ~chosen & answer])


def pick(count: int, answer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[L] booleans: `count` positions of the answer, every set of them equally likely."""
    chosen = np.zeros(len(answer), bool)
    chosen[rng.permutation(np.flatnonzero(answer))[:count]] = True
    return chosen


def whole(masked: Sequence[np.ndarray], weights: Sequence[np.ndarray], prompt: np.ndarray) -> Masks:
    """Masks that leave the prompt alone."""
    return Masks(np.stack(masked), np.stack(weights).astype(float), np.zeros((len(masked), len(prompt)), bool))


AnyLikelihood = Annotated[SerializeAsAny[Likelihood], component(Likelihood)]
__getattr__, __dir__ = components_of(__name__)
