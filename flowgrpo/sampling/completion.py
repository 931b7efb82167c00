"""Completions: finish any state of a rollout deterministically, to learn what it is worth."""

from dataclasses import replace

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from flowgrpo.core.section import Section
from flowgrpo.sampling.kernels import AnyKernel, Kernel
from flowgrpo.sampling.shape import Node, Shape


class Completion(Section):
    """Which states are completed, and how.

    `steps` transitions of `kernel` (null: the plan's own without chance) to the sample: all that remain when null (exact), 1
    for the one-step clean prediction. A state's own network evaluation is the first of its completion, so n steps cost n - 1
    evaluations more; a state that the plan itself continues deterministically costs none.
    `every` k-th level is completed, or only those in `at`.
    """

    kernel: AnyKernel | None = None
    steps: PositiveInt | None = None
    every: PositiveInt = 1
    at: tuple[NonNegativeInt, ...] | None = None

    def complaint(self, steps: int) -> str | None:
        if self.kernel and self.kernel.stochastic:
            return f"completion.kernel '{self.kernel.type}' is stochastic; a completion must be deterministic (ode, dpmpp_2m)"
        outside = [level for level in self.at or () if level >= steps]
        return f"completion.at {outside}: there are {steps} levels to complete from (0 .. {steps - 1})" if outside else None

    def wanted(self, level: int) -> bool:
        return level in self.at if self.at is not None else level % self.every == 0


def levels(start: int, end: int, count: int | None) -> list[int]:
    """At most `count` levels (all when None) from `start`, exclusive, to `end`, inclusive, evenly spaced by index."""
    remaining = end - start
    count = remaining if count is None else min(count, remaining)
    return [start + round(float(x)) for x in np.linspace(0, remaining, count + 1)[1:]]


def complete(shape: Shape, completion: Completion, steps: int) -> Shape:
    """The shape with a chain of completing nodes added to every wanted state that no deterministic transition leaves yet."""
    nodes = list(shape.nodes)
    for i, node in enumerate(shape.nodes):
        kernels = [kernel for child in shape.children[i] if (kernel := shape.nodes[child].kernel)]
        if kernels and completion.wanted(node.step) and all(kernel.stochastic for kernel in kernels):
            kernel = completion.kernel or kernels[0].deterministic()
            _append(nodes, i, kernel, levels(node.step, steps, completion.steps))
    return replace(shape, nodes=tuple(nodes))


def _append(nodes: list[Node], start: int, kernel: Kernel, targets: list[int]) -> None:
    parent, member = start, nodes[start].member
    for target in targets:
        nodes.append(Node(parent, target, member, kernel=kernel, completing=True))
        parent = len(nodes) - 1
