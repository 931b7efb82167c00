"""Score a state as it is, noise and all: no evaluation of the network, and nothing to decode."""

from dataclasses import replace

from flowgrpo.sampling.completion import Completion
from flowgrpo.sampling.shape import Shape


class NoisyLatents(Completion):
    """For rewards that read latents at any noise level (`card(reads="latents", noisy=True)`): what such a reward says of a state
    is its value. Every reward with a weight must be of that kind; those without one score the samples only."""

    def complete(self, shape: Shape, steps: int) -> Shape:
        wanted = set(self.wanted(shape))
        return replace(shape, nodes=tuple(replace(node, valued=i in wanted) for i, node in enumerate(shape.nodes)))
