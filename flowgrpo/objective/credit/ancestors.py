"""An outcome among those that share its past, seen from every fork of it (TreePO, arXiv 2508.17445)."""

from dataclasses import replace

import numpy as np

from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.objective.credit._forks import fork_above, needs_forks
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.sampling.shape import Shape


class Ancestors(Credit):
    """R less the mean reward below an ancestor, averaged over the whole group and every fork on the way to the outcome.

    `weighted` weighs an ancestor by the number of outcomes below it. A transition that several outcomes share gets their mean.
    It is centred already: use `advantage: {mean: global, std: global}`, which whitens the batch as the paper does.
    """

    weighted: bool = False

    def assign(self, tree: ScoredTree) -> Credited:
        shape, above = tree.shape, fork_above(tree.shape)
        advantage = np.full(len(shape.nodes), np.nan)
        for leaf in shape.outcomes:
            groups = {shape.outcomes}
            fork = above[leaf]
            while fork is not None:
                groups.add(shape.outcomes_below[fork])
                fork = above[fork]
            gains = [tree.rewards[leaf] - tree.rewards[list(group)].mean() for group in groups]
            advantage[leaf] = np.average(gains, weights=[len(group) for group in groups] if self.weighted else None)
        return Terminal().assign(replace(tree, rewards=advantage))

    def complaint(self, shape: Shape) -> str | None:
        return needs_forks(f"credit '{self.type}'", shape)
