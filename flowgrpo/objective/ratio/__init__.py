"""Ratios: what is limited of how an update changes the probability of a transition's decisions."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.batch import LossInputs

if TYPE_CHECKING:
    from torch import Tensor


class Ratio(Component):
    needs_old_prediction: ClassVar[bool] = False
    """Whether it reads KL(new || old)."""
    needs_noise_scale: ClassVar[bool] = False
    """Whether it reads the noise scale of a step."""
    joins_decisions: ClassVar[bool] = False
    """Whether it says nothing new of transitions that are one decision."""

    @abstractmethod
    def log_ratio(self, batch: LossInputs) -> "Tensor":
        """[C, D], 0 where new and old are the same. Its gradient is that of the loss."""

    def rescaled(self, loss_CD: "Tensor", batch: LossInputs) -> "Tensor":
        """[C, D]: the surrogate's loss in the ratio's own unit."""
        return loss_CD


AnyRatio = Annotated[SerializeAsAny[Ratio], component(Ratio)]
__getattr__, __dir__ = components_of(__name__)
