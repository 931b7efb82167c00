"""The transitions at which a trajectory turns (after TP-GRPO, arXiv 2602.06422)."""

import numpy as np

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.objective.turning import needs_trajectories, turning_points
from flowgrpo.sampling.shape import Shape


class TurningPoint(Selection):
    """Only turning points, by the definitions of credit `turning_point`: steps from which on the value of the states goes where
    the trajectory goes as a whole. (The paper trains all steps and credits these differently.)

    Whether a step turns depends on its own draw, so the selected part of a gradient is not an unbiased estimate of the whole.
    """

    consistent: bool = True

    def choose(self, tree: ScoredTree, advantage: np.ndarray, update: int, rng: np.random.Generator) -> np.ndarray:
        chosen = np.zeros(len(advantage), bool)
        for path in map(list, tree.shape.trajectories):
            chosen[path] = turning_points(tree.along(path), self.consistent, tree.rounding)
        return chosen

    def complaint(self, shape: Shape) -> str | None:
        return needs_trajectories(f"selection '{self.type}'", shape, "choose another selection on trees")
