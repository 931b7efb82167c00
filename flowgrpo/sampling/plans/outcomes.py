"""The whole trajectory as one action, where outcomes are scored and not the steps that made them."""

from dataclasses import replace
from typing import ClassVar

from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.shape import Shape


class Outcomes(Plan):
    """G trajectories of `kernel`; only the last state of each is trained."""

    trains_outcomes: ClassVar[bool] = True

    def grow(self, draw: Draw) -> Shape:
        shape = Shape.chains([(self.kernel, i + 1) for i in range(draw.steps)], draw.group_size, self.shared_start)
        return Shape(tuple(replace(node, trained=node.step == draw.steps) for node in shape.nodes))

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.shared_start and not self.kernel.stochastic:
            return f"kernel '{self.kernel.type}' makes one sample of one start; set shared_start to false"
        if self.completion is None:
            return None
        return f"plan '{self.type}' scores nothing on the way, so completion must be null"
