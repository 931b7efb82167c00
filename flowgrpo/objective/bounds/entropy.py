"""Wider bounds where the model was undecided (SSPO, arXiv 2511.04256, reconstructed)."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds

if TYPE_CHECKING:
    from torch import Tensor


class Entropy(Bounds):
    """r in [1 - low k, 1 + high k] with k from `least` to `most` as the mean entropy of a transition's decisions, over the
    largest possible, goes from 0 to 1.

    The paper says which way, not by how much.
    """

    low: float = Field(default=0.2, gt=0.0, lt=1.0)
    high: float = Field(default=0.2, gt=0.0)
    least: float = Field(default=0.5, gt=0.0)
    most: float = Field(default=1.5, gt=0.0)
    needs_entropy: ClassVar[bool] = True

    def of(self, batch: LossInputs) -> "tuple[Tensor, Tensor]":
        assert batch.entropy_CD is not None
        k_C1 = self.least + (self.most - self.least) * batch.mean_D(batch.entropy_CD)
        return (-self.low * k_C1).clamp(min=-0.999).log1p(), (self.high * k_C1).log1p()
