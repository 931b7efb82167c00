"""Temporal differences where a tree forks (TEMPO, reconstructed)."""

from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.objective.credit._forks import fork_above, needs_forks
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.sampling.shape import Shape


class Tempo(Credit):
    """V(x') + `weight` (V(x') - V(x)) where x forks, V(x') elsewhere, V the mean reward of the outcomes below a state.

    Below the last fork V is the final reward, so away from forks this is GRPO. The weight of the difference is 1 in our reading,
    and the deviation that advantages are divided by is that of the sum.
    """

    weight: float = 1.0

    def assign(self, tree: ScoredTree) -> Credited:
        means, above = Terminal().assign(tree).value, fork_above(tree.shape)
        credit = means.copy()
        for i, node in enumerate(tree.shape.nodes):
            if above[i] is not None and above[i] == node.parent:
                credit[i] += self.weight * (means[i] - means[node.parent])
        return Credited(credit)

    def complaint(self, shape: Shape) -> str | None:
        return needs_forks(f"credit '{self.type}'", shape)
