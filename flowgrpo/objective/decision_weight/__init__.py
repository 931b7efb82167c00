"""Decision weights: how much an id counts in the loss, by what the rest of its group has chosen.

N ids that the trained transitions of one group have chosen, each at a position of its sample; V ids to choose from.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import SerializeAsAny

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Chosen:
    """All are [N] but `log_p` [N, V], what each was chosen from at the rollout, which is None where no rule reads it; -inf is for
    what can't be chosen. `sample` numbers the sample that an id is in, -1 where several have it from a state that they share."""

    position: "Tensor"
    id: "Tensor"
    advantage: "Tensor"
    sample: "Tensor"
    log_p: "Tensor | None" = None

    @staticmethod
    def joined(parts: "Sequence[Chosen]") -> "Chosen":
        """One after the other."""
        import torch

        log_p = [part.log_p for part in parts if part.log_p is not None]
        position, ids, advantage, sample = (
            torch.cat([vars(part)[name] for part in parts]) for name in ("position", "id", "advantage", "sample")
        )
        return Chosen(position, ids, advantage, sample, torch.cat(log_p) if log_p else None)

    def __getitem__(self, rows: "Tensor") -> "Chosen":
        log_p = None if self.log_p is None else self.log_p[rows]
        return Chosen(self.position[rows], self.id[rows], self.advantage[rows], self.sample[rows], log_p)


class DecisionWeight(Component):
    """Several in a config are multiplied. They are found out once for each update, and have no gradient."""

    needs_old_prediction: ClassVar[bool] = False
    """Whether it reads `log_p`."""

    @abstractmethod
    def weigh(self, chosen: Chosen) -> "Tensor":
        """[N]: 1 for what counts as ever."""

    def weighed(self, chosen: Chosen) -> "Tensor":
        """What `weigh` says, checked. Errors: UserError where it raises or gives no number for each id."""
        with user_code(f"decision weight '{self.type}'"):
            weights = self.weigh(chosen)
            right = weights.shape == chosen.advantage.shape
        if not right:
            raise UserError(f"decision weight '{self.type}' must return {len(chosen.advantage)} numbers, one for each id")
        if not bool(weights.isfinite().all()):
            raise NotFinite(f"decision weight '{self.type}' gave weights that are no finite numbers")
        return weights.float()


def product(rules: Iterable[DecisionWeight], chosen: Chosen) -> "Tensor":
    """[N]"""
    weights = chosen.advantage.new_ones(chosen.advantage.shape)
    for rule in rules:
        weights = weights * rule.weighed(chosen)
    return weights


AnyDecisionWeight = Annotated[SerializeAsAny[DecisionWeight], component(DecisionWeight)]
__getattr__, __dir__ = components_of(__name__)
