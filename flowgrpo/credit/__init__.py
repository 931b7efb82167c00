"""Credit: rewards on a rollout tree -> one number per trained transition. Pure functions of the tree, no model."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.sampling.shape import Shape
from flowgrpo.section import Component, component


@dataclass(frozen=True)
class ScoredTree:
    """One group's tree with one reward: `rewards` is [N nodes], NaN where a node was not scored (all leaves are)."""

    shape: Shape
    rewards: np.ndarray


class Credit(Component):
    """A credit rule."""

    @abstractmethod
    def assign(self, tree: ScoredTree) -> np.ndarray:
        """[N nodes]: the credit of the transition into each trained node; other entries are ignored."""


AnyCredit = Annotated[SerializeAsAny[Credit], component(Credit, "flowgrpo.credit")]
