"""Finish a state deterministically: it is worth what it becomes."""

from dataclasses import replace

from pydantic import PositiveInt

from flowgrpo.sampling.completion import Completion, levels
from flowgrpo.sampling.kernels import AnyKernel, Kernel
from flowgrpo.sampling.shape import Node, Shape


class Deterministic(Completion):
    """`steps` transitions of `kernel` (null: the plan's own without chance) to the sample: all that remain when null (exact), 1
    for the one-step clean prediction. A state's own network evaluation is the first of its completion, so n steps cost n - 1
    evaluations more.
    """

    kernel: AnyKernel | None = None
    steps: PositiveInt | None = None

    def complaint(self, steps: int) -> str | None:
        if self.kernel and self.kernel.stochastic:
            return f"completion.kernel '{self.kernel.type}' is stochastic; a completion must be deterministic (ode, dpmpp_2m)"
        return super().complaint(steps)

    def complete(self, shape: Shape, steps: int) -> Shape:
        """A chain of completing nodes is added to every wanted state."""
        nodes = list(shape.nodes)
        for i in self.wanted(shape):
            first = shape.nodes[shape.children[i][0]].kernel
            assert first is not None
            _append(nodes, i, self.kernel or first.deterministic(), levels(shape.nodes[i].step, steps, self.steps))
        return replace(shape, nodes=tuple(nodes))


def _append(nodes: list[Node], start: int, kernel: Kernel, targets: list[int]) -> None:
    parent, member = start, nodes[start].member
    for target in targets:
        nodes.append(Node(parent, target, member, kernel=kernel, completing=True))
        parent = len(nodes) - 1
