"""A deterministic spine with stochastic teeth (TempFlow-GRPO, arXiv 2508.04324)."""

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from flowgrpo.sampling.plans import Plan
from flowgrpo.sampling.shape import Node, Shape


class Comb(Plan):
    """From each start an ODE spine; at every step of `at` (all but the last, when null) `teeth` stochastic children of the
    spine's state, each finished by the ODE. Nothing else is random, so a tooth's reward is that transition's own.

    A group of G is G / teeth starts. Terminal credit with advantages per `root_step` compares the teeth of one state.
    """

    teeth: PositiveInt = 6
    at: tuple[NonNegativeInt, ...] | None = None

    def grow(self, steps: int, group_size: int, update: int, rng: np.random.Generator) -> Shape:
        nodes: list[Node] = []
        for member in range(group_size // self.teeth):
            self._grow_one(nodes, member, steps)
        return Shape(tuple(nodes))

    def _grow_one(self, nodes: list[Node], member: int, steps: int) -> None:
        at, other = range(steps - 1) if self.at is None else self.at, self.kernel.deterministic()
        nodes.append(Node(None, 0, member))
        spine = len(nodes) - 1
        for step in range(max(at) + 1):
            for branch in range(self.teeth if step in at else 0):
                nodes.append(Node(spine, step + 1, member, branch + 1, self.kernel, trained=True))
                for level in range(step + 2, steps + 1):
                    nodes.append(Node(len(nodes) - 1, level, member, branch + 1, other))
            if step < max(at):
                nodes.append(Node(spine, step + 1, member, 0, other))
                spine = len(nodes) - 1

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.shared_start:
            return f"plan '{self.type}' compares the teeth of one start; shared_start has no meaning in it"
        if self.at is not None and (not self.at or max(self.at) > steps - 2):
            return f"at = {list(self.at)} must name steps out of 0 .. {steps - 2} (the last step is deterministic)"
        if steps < 2:
            return f"plan '{self.type}' needs at least 2 steps, since the last one is deterministic"
        if self.teeth < 2:
            return "a single tooth has nothing to compare with; teeth must be at least 2"
        if group_size % self.teeth:
            return f"rollout.group_size = {group_size} must be a multiple of teeth = {self.teeth}"
        return None
