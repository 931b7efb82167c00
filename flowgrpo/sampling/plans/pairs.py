"""No rollout: two finished pictures from files for each prompt."""

from typing import ClassVar

from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.shape import Node, Shape


class Pairs(Plan):
    """The group of a prompt is the pair of pictures that its row names, `chosen` and `rejected`, in this order. They are noised
    anew and trained; their reward is 1 and 0. No sample is made, so the kernel does nothing.
    """

    trains_outcomes: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    def grow(self, draw: Draw) -> Shape:
        return Shape(tuple(Node(None, draw.steps, member, trained=True) for member in range(2)))

    def complaint(self, steps: int, group_size: int) -> str | None:
        if group_size != 2:
            return f"plan '{self.type}' has two pictures a prompt: set rollout.group_size to 2"
        if self.shared_start or self.completion:
            return f"plan '{self.type}' makes no samples: set shared_start to false and completion to null"
        return None
