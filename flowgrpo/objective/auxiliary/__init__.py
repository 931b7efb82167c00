"""Auxiliary terms: what a loss has beside its surrogate."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import PositiveFloat, SerializeAsAny

from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.batch import KLUnit, LossInputs

if TYPE_CHECKING:
    from torch import Tensor

    from flowgrpo.objective import AdvantageConfig


class Auxiliary(Component):
    """`coefficient` x a term of every trained transition, whatever its reward. Several in a config are added."""

    coefficient: PositiveFloat = 1.0
    needs_teacher: ClassVar[bool] = False
    """Whether it reads KL(policy || teacher)."""
    of_given: ClassVar[bool] = False
    """Whether it is of answers that are given with the prompts, in place of the policy's own samples."""

    @property
    def kl_unit(self) -> KLUnit | None:
        """That of a KL which it makes small."""
        return None

    def complaint(self, advantage: "AdvantageConfig") -> str | None:
        """Why it can't stand beside these advantages, or None."""
        return None

    @abstractmethod
    def loss(self, batch: LossInputs) -> "Tensor":
        """[C, D]"""


AnyAuxiliary = Annotated[SerializeAsAny[Auxiliary], component(Auxiliary)]
__getattr__, __dir__ = components_of(__name__)
