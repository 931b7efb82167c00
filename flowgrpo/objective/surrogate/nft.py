"""Samples that are worth more pull the prediction, those that are worth less push it (DiffusionNFT, arXiv 2509.16117, eq. 6)."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate, nothing_held

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-5


class Nft(Surrogate):
    """(`limit` / b) (r E(v+) + (1 - r) E(v-)), b = `beta`: with v_o what the old policy predicted of the noised sample,

        v+ = v_o + b (v - v_o),    v- = v_o - b (v - v_o),    r = 1/2 + A / (2 `limit`), A kept within +-`limit`

    and E the squared error of the sample that a prediction leads to, over its absolute error without a gradient. Without that
    division the optimum is v_o + (2 / b) E[r | x] (v_+ - v_o), v_+ the mean direction to samples that are worth much.
    """

    beta: PositiveFloat = 1.0
    limit: PositiveFloat = 5.0
    needs_samples: ClassVar[bool] = True

    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        assert batch.noised is not None
        v, old = batch.noised.prediction, batch.noised.old
        ahead_C1, behind_C1 = (adaptive(batch.noised.error(old + b * (v - old))) for b in (self.beta, -self.beta))
        r_C1 = shares(batch.advantage_C1, self.limit)
        return self.limit / self.beta * (r_C1 * ahead_C1 + (1.0 - r_C1) * behind_C1), nothing_held(log_ratio_CD)


def adaptive(error: "Tensor") -> "Tensor":
    """[C, 1]: the squared error of [C, ...] in units of the absolute error."""
    flat = error.flatten(1)
    return (flat**2).mean(1, keepdim=True) / flat.detach().abs().mean(1, keepdim=True).clamp(min=LEAST)


def shares(advantage_C1: "Tensor", limit: float) -> "Tensor":
    """[C, 1] in [0, 1]: how much of a sample is taken as good."""
    return 0.5 + 0.5 * (advantage_C1 / limit).clamp(-1.0, 1.0)
