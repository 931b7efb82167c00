"""Surrogates: what an update makes small in place of the expected loss, and what holds it back from going too far."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds

if TYPE_CHECKING:
    from torch import Tensor


class Surrogate(Component):
    """Its gradient at ratio 1 is -A times that of log p, or in that unit, so that one learning rate suits all of them."""

    needs_old_prediction: ClassVar[bool] = False
    """Whether it reads KL(new || old)."""
    joins_decisions: ClassVar[bool] = False
    """Whether it makes one number of all decisions of a transition."""
    needs_samples: ClassVar[bool] = False
    """Whether it reads what is predicted of finished samples that were noised anew."""
    needs_reference: ClassVar[bool] = False
    """Whether it reads the log-probs of the policy before training."""
    reads_teacher: ClassVar[Literal["log_prob", "contrast"] | None] = None
    """What it reads of a teacher: how likely that finds the ids, or what sets it apart from the reference there."""
    compares_group: ClassVar[bool] = False
    """Whether it needs all transitions of a group at once."""
    weighs_ids: ClassVar[bool] = False
    """Whether ids of a transition count differently in it."""

    needs_gradient: ClassVar[bool] = False
    """Whether it reads the rewards with their gradient."""

    @property
    def needs_entropy(self) -> bool:
        """Whether it reads how undecided the model was."""
        return False

    @abstractmethod
    def loss(self, log_ratio_CD: "Tensor", batch: LossInputs, clip: Bounds) -> "tuple[Tensor, Tensor]":
        """([C, D] the loss, [C, D] booleans: whether the gradient is held back there). `clip` is for those that clip."""


def nothing_held(log_ratio_CD: "Tensor") -> "Tensor":
    """[C, D]: no gradient is held back."""
    return log_ratio_CD.new_zeros(log_ratio_CD.shape).bool()


AnySurrogate = Annotated[SerializeAsAny[Surrogate], component(Surrogate)]
__getattr__, __dir__ = components_of(__name__)
