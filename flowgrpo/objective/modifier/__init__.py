"""Modifiers: what becomes of a group's advantages once they are normalised. N nodes of a group."""

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.objective.credit import ScoredTree


class Modifier(Component):
    """A rule; several in a config are applied one after the other, and what is selected is selected afterwards."""

    reads_texts: ClassVar[bool] = False
    """Whether it reads what samples say, which pictures and clips do not."""
    needs_ids: ClassVar[bool] = False
    """Whether it reads how probable samples were, which a density does not say."""

    @abstractmethod
    def modify(self, tree: ScoredTree, advantage: np.ndarray) -> np.ndarray:
        """[N], of one group with `advantage` [N]; entries of nodes that are not trained are ignored."""

    def modified(self, tree: ScoredTree, advantage: np.ndarray) -> np.ndarray:
        """What `modify` says, checked. Errors: UserError where it raises or gives no number for a trained node."""
        with user_code(f"modifier '{self.type}'"):
            modified = self.modify(tree, advantage.copy())
        if not isinstance(modified, np.ndarray) or modified.shape != advantage.shape or modified.dtype.kind not in "fiu":
            raise UserError(f"modifier '{self.type}' must return an array of {len(advantage)} numbers, one per node")
        if not np.isfinite(modified[list(tree.shape.trained)]).all():
            raise NotFinite(f"modifier '{self.type}' gave an advantage that is not a finite number")
        return modified


AnyModifier = Annotated[SerializeAsAny[Modifier], component(Modifier)]
__getattr__, __dir__ = components_of(__name__)
