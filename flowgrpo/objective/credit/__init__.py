"""Credit: rewards on a rollout tree -> a number per trained transition. Pure functions of the tree, no model."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import SerializeAsAny

from flowgrpo.core.errors import NotFinite, UserError, user_code
from flowgrpo.core.plugins import components_of
from flowgrpo.core.section import Component, component
from flowgrpo.sampling.shape import Shape


@dataclass(frozen=True)
class ScoredTree:
    """One group's tree with one reward, N nodes.

    `rewards` [N] is NaN where a node was not scored (all leaves are); `log_probs` [N] are those of the transitions into
    trained nodes at the rollout, in the policy's unit, NaN elsewhere, and `decisions` [N] is how many decisions each sums over.
    `texts` are what the outcomes say, `entropy` [N], in [0, 1], is how undecided the policy was, and `company` [K] are the
    rewards of those whom a baseline brings along, where anybody reads them. Rewards that differ by no more than `rounding` are
    equal.
    With `rewards` [..., N] it stands for many groups of one shape, which `terminal`, `gain` and `blend` credit all at once.
    """

    shape: Shape
    rewards: np.ndarray
    log_probs: np.ndarray = field(default_factory=lambda: np.empty(0))
    rounding: float = 0.0
    decisions: np.ndarray = field(default_factory=lambda: np.empty(0))
    texts: Sequence[str] = ()
    entropy: np.ndarray = field(default_factory=lambda: np.empty(0))
    company: np.ndarray = field(default_factory=lambda: np.empty(0))

    @cached_property
    def values(self) -> np.ndarray:
        """[N]: the reward of a state's deterministic completion, NaN where the tree holds none."""
        completed = {i: leaf for i, leaf in enumerate(self.shape.completions) if leaf is not None}
        values = np.full(self.rewards.shape, np.nan)
        values[..., list(completed)] = self.rewards[..., list(completed.values())]
        return values

    def along(self, path: Sequence[int]) -> np.ndarray:
        """[w + 1]: what a trajectory of w trained nodes is worth before its first step and after each."""
        start = self.shape.nodes[path[0]].parent
        assert start is not None
        return self.values[[start, *path]]


@dataclass(frozen=True)
class Credited:
    """What a rule says of every node, [N] each; entries of nodes that are not trained are ignored.

    The advantage is scale x normalised(value) + offset. `turning` marks turning points, for the report.
    """

    value: np.ndarray
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None
    turning: np.ndarray | None = None


class Credit(Component):
    """A credit rule."""

    @abstractmethod
    def assign(self, tree: ScoredTree) -> Credited:
        """The credit of the transition into each trained node."""

    def credited(self, tree: ScoredTree) -> Credited:
        """What `assign` says, checked. Errors: UserError where it raises or returns no number for a trained node."""
        with user_code(f"credit '{self.type}'"):
            credited = self.assign(tree)
        if not isinstance(credited, Credited):
            raise UserError(f"credit '{self.type}' returned a {type(credited).__name__}, and must return a Credited")
        for name, column in vars(credited).items():
            if column is not None or name == "value":
                self._check(name, column, tree.shape)
        return credited

    def _check(self, name: str, column: object, shape: Shape) -> None:
        nodes = len(shape.nodes)
        if not isinstance(column, np.ndarray) or column.shape != (nodes,) or column.dtype.kind not in "bfiu":
            raise UserError(f"credit '{self.type}' must return {name} as an array of {nodes} numbers, one per node")
        trained = list(shape.trained)
        if not np.isfinite(column[trained]).all():
            node = trained[int(np.argmin(np.isfinite(column[trained])))]
            raise NotFinite(
                f"credit '{self.type}' gave {column[node]} as the {name} of a trained transition, which needs a number"
            )

    def complaint(self, shape: Shape) -> str | None:
        """Why the rule can't work on trees of this shape, or None."""
        return None


def needs_values(whose: str, shape: Shape) -> str | None:
    """The complaint of a rule that compares what trajectories are worth at their start and at their end."""
    ends = {i for path in shape.trajectories for i in (shape.nodes[path[0]].parent, path[-1]) if i is not None}
    missing = sorted({shape.nodes[i].step for i in ends if shape.completions[i] is None})
    if not missing:
        return None
    return (
        f"{whose} needs the value of the states at levels {missing}, which nothing completes; set "
        "rollout.plan.completion, e.g. {steps: null} for exact completions"
    )


def needs_every_value(whose: str, shape: Shape) -> str | None:
    """The complaint of a rule that follows what a trajectory is worth from state to state."""
    if any(shape.completions[i] is None for i in shape.trained):
        return f"{whose} needs the value of every state; set rollout.plan.completion with every: 1"
    return needs_values(whose, shape)


AnyCredit = Annotated[SerializeAsAny[Credit], component(Credit)]
__getattr__, __dir__ = components_of(__name__)
