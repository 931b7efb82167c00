"""A value head on what the network computes at a state anyway: no evaluation of the network, and nothing to decode."""

from dataclasses import replace

from pydantic import Field

from flowgrpo.sampling.completion import Completion
from flowgrpo.sampling.shape import Shape


class LearnedValues(Completion):
    """A state's value is what earlier updates let expect of the reward below it, by ridge regression on pooled features of the
    network's last block, level by level. It knows nothing of the rewards of its own update, so it is no more than a critic of
    actor-critic methods, and like one it is biased where it is a transition's new value: what it does not see of the reward
    teaches nothing. As a mere baseline (`gae` with `decay: 1`) it is not.

    A level is valued while its predictions correlate by `correlation` or more with the final rewards, within the groups of
    updates that they were not fitted to. A start is valued whenever a level is: it is a baseline only. Where the credit rule
    can't work on what is valued, credit is `terminal`, and a selection that needs values chooses all.
    """

    correlation: float = Field(default=0.5, ge=-1.0, le=1.0)

    def complete(self, shape: Shape, steps: int) -> Shape:
        wanted = set(self.wanted(shape))
        nodes = (replace(node, valued=i in wanted, watched=i in wanted) for i, node in enumerate(shape.nodes))
        return replace(shape, nodes=tuple(nodes))

    def switched(self, shape: Shape, levels: frozenset[int]) -> Shape:
        """A completed shape, with values at these levels only, and at starts where there are such levels."""
        starts = {shape.nodes[path[0]].parent for path in shape.trajectories} if levels else set()
        nodes = (
            replace(node, valued=node.watched and (node.step in levels or i in starts)) for i, node in enumerate(shape.nodes)
        )
        return replace(shape, nodes=tuple(nodes))
