"""Selection: which of a group's scored transitions are trained. It saves the update's network evaluations, not the rollout's."""

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.credit import ScoredTree
from flowgrpo.sampling.shape import Shape


class Selection(Component):
    """A rule; several in a config are applied one after the other.

    Advantages are not normalised again afterwards. States all of whose transitions are dropped are not evaluated in the
    update, so its batches differ from the rollout's and the first log-ratios are rounding errors instead of 0.
    """

    drops_silence: ClassVar[bool] = False
    """Whether it is about groups whose samples all earn the same."""
    reads_company: ClassVar[bool] = False
    """Whether it compares samples with those whom a baseline brings along."""

    @property
    def needs_entropy(self) -> bool:
        """Whether it reads how undecided the policy was, which only ids tell."""
        return False

    @abstractmethod
    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        """[N nodes] booleans for one group with `advantage` [N]; entries of nodes that are not trained are ignored.

        `tree` has the group's shape and its rewards, combined as for training.
        """

    def chosen(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        """What `choose` says, checked. Errors: UserError where it raises or returns something else than N booleans."""
        with user_code(f"selection '{self.type}'"):
            chosen = self.choose(tree, advantage.copy(), update, rng)
        if not isinstance(chosen, np.ndarray) or chosen.shape != advantage.shape or chosen.dtype != bool:
            raise UserError(f"selection '{self.type}' must return an array of {len(advantage)} booleans, one per node")
        return chosen

    def complaint(self, shape: Shape) -> str | None:
        """Why the rule can't work on trees of this shape, or None."""
        return None


AnySelection = Annotated[SerializeAsAny[Selection], component(Selection)]
__getattr__, __dir__ = components_of(__name__)
