"""A deterministic spine with stochastic teeth (TempFlow-GRPO, arXiv 2508.04324)."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.plans._teeth import allocated, cost, wanted
from flowgrpo.sampling.shape import Node, Shape


class Comb(Plan):
    """From each start an ODE spine; at every step of `at` (all but the last, when null) `teeth` stochastic children of the
    spine's state, each finished by the ODE. Nothing else is random, so a tooth's reward is that transition's own.

    A group of G is G / teeth starts. Terminal credit with advantages per `root_step` compares the teeth of one state.

    `allocate: adaptive` spends the network evaluations of that group where the reward is decided. With sigma_t the deviation of
    the reward among the teeth of a state at step t in earlier updates and c_t = S - 1 - t the evaluations of a tooth, teeth are
    in proportion to sigma_t / sqrt(c_t) (Neyman's allocation), at least the share `floor` of the most. The step with the most
    has `teeth` a start, and there are as many starts as the evaluations buy. The loss counts every step as often as before
    with `objective.reduce: step`.
    """

    teeth: PositiveInt = 6
    at: tuple[NonNegativeInt, ...] | None = None
    allocate: Literal["equal", "adaptive"] = "equal"
    floor: float = Field(default=0.05, gt=0.0, le=1.0)

    @property
    def drawn_for(self) -> Literal["update", "prompt"]:
        return "prompt" if self.allocate == "adaptive" else "update"

    def grow(self, draw: Draw) -> Shape:
        steps = range(draw.steps - 1) if self.at is None else self.at
        starts: list[Mapping[int, int]] = [dict.fromkeys(steps, self.teeth)] * (draw.group_size // self.teeth)
        if self.allocate == "adaptive":
            budget = sum(cost(teeth, draw.steps) for teeth in starts)
            deviation = draw.spread.steps if draw.spread else np.full(draw.steps, np.nan)
            starts = allocated(budget, self.teeth * wanted(deviation[:-1], self.floor), draw.rng)
        nodes: list[Node] = []
        for member, teeth in enumerate(starts):
            self._grow_one(nodes, member, teeth, draw.steps)
        return Shape(tuple(nodes))

    def _grow_one(self, nodes: list[Node], member: int, teeth: Mapping[int, int], steps: int) -> None:
        """`teeth` by step."""
        other = self.kernel.deterministic()
        nodes.append(Node(None, 0, member))
        spine = len(nodes) - 1
        for step in range(max(teeth) + 1):
            for branch in range(teeth.get(step, 0)):
                nodes.append(Node(spine, step + 1, member, branch + 1, self.kernel, trained=True))
                for level in range(step + 2, steps + 1):
                    nodes.append(Node(len(nodes) - 1, level, member, branch + 1, other))
            if step < max(teeth):
                nodes.append(Node(spine, step + 1, member, 0, other))
                spine = len(nodes) - 1

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.shared_start:
            return f"plan '{self.type}' compares the teeth of one start; shared_start has no meaning in it"
        if self.at is not None and (not self.at or max(self.at) > steps - 2):
            return f"at = {list(self.at)} must name steps out of 0 .. {steps - 2} (the last step is deterministic)"
        if self.at is not None and self.allocate == "adaptive":
            return f"allocate: adaptive finds the steps that matter by itself; leave at = {list(self.at)} out"
        if steps < 2:
            return f"plan '{self.type}' needs at least 2 steps, since the last one is deterministic"
        if self.teeth < 2:
            return "a single tooth has nothing to compare with; teeth must be at least 2"
        if group_size % self.teeth:
            return f"rollout.group_size = {group_size} must be a multiple of teeth = {self.teeth}"
        return None
