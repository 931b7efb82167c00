"""The whole trajectory as one action, for likelihoods that score outcomes and not the steps that made them."""

from dataclasses import replace

from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.shape import Shape


class Outcomes(Plan):
    """G trajectories of `kernel`; only the last state of each is trained."""

    def grow(self, draw: Draw) -> Shape:
        shape = Shape.chains([(self.kernel, i + 1) for i in range(draw.steps)], draw.group_size, self.shared_start)
        return Shape(tuple(replace(node, trained=node.step == draw.steps) for node in shape.nodes))

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.completion is None:
            return None
        return f"plan '{self.type}' scores nothing on the way, so completion must be null"
