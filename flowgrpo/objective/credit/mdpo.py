"""Step rewards of what each state would become (MDPO, arXiv 2508.13148)."""

import numpy as np

from flowgrpo.objective.credit import Credit, Credited, ScoredTree, needs_every_value
from flowgrpo.sampling.shape import Shape


class Mdpo(Credit):
    """a_t = V_t - V_{t-1} + mean of V_u over u > t, and V_w for the last of w steps, V_t the value of the state after step t.

    The paper values the guess that the step itself drew, and drops V_0 at the first step; here a state is worth what its
    completion is (`completion: {steps: 1}` fills all masks at once), so V_0 is known. Its constant 1 falls out of any advantage.
    """

    def assign(self, tree: ScoredTree) -> Credited:
        """A transition that several trajectories share gets their mean."""
        count, credit = np.zeros((2, len(tree.shape.nodes)))
        for path in map(list, tree.shape.trajectories):
            count[path] += 1.0
            credit[path] += step_credit(tree.along(path))
        count[count == 0.0] = np.nan
        return Credited(credit / count)

    def complaint(self, shape: Shape) -> str | None:
        return needs_every_value(f"credit '{self.type}'", shape)


def step_credit(values: np.ndarray) -> np.ndarray:
    """[w] for the w steps between `values` [w + 1]."""
    gains, after = np.diff(values), values[1:]
    ahead = np.array([after[t + 1 :].mean() for t in range(len(gains) - 1)])
    return np.append(gains[:-1] + ahead, after[-1])
