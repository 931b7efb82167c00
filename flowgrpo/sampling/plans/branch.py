"""A tree that forks at given steps (BranchGRPO, arXiv 2509.06040)."""

from math import prod

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.plans.sliding import SlidingWindow
from flowgrpo.sampling.shape import Node, Shape


class Branch(Plan):
    """Every state at a step of `forks` has `fan_out` children; a group of G leaves is G / fan_out^forks trees.

    Siblings' noise is (xi_0 + s eta_b) / sqrt(1 + s^2) with xi_0 shared and s = `split_scale`: each is standard normal, and
    two of them correlate by 1 / (1 + s^2). (The published code draws s eta_b instead, s^2 times the variance that its
    log-prob assumes.)
    `window` null: every step but the last is stochastic. Else (the Mix variant) only the forks and the window's steps are.
    The last step is deterministic: the picture is the clean prediction, and the last transition is not trained.
    """

    forks: tuple[NonNegativeInt, ...] = (0, 3, 6, 9)
    fan_out: int = Field(default=2, ge=2)
    split_scale: NonNegativeFloat = 4.0
    window: SlidingWindow | None = None

    def grow(self, draw: Draw) -> Shape:
        steps = draw.steps
        stochastic = range(steps - 1) if self.window is None else self.window.stochastic_steps(draw)
        chosen = {*stochastic, *self.forks}
        nodes = [Node(None, 0, tree) for tree in range(draw.group_size // self.leaves_per_tree)]
        tips, other = range(len(nodes)), self.kernel.deterministic()
        for step in range(steps):
            kernel: Kernel = self.kernel if step in chosen else other
            copies, correlation = (self.fan_out, self.correlation) if step in self.forks else (1, 0.0)
            parents = [tip for tip in tips for _ in range(copies)]
            tips = range(len(nodes), len(nodes) + len(parents))
            nodes += [
                Node(p, step + 1, nodes[p].member, b, kernel, kernel.stochastic, correlation) for b, p in enumerate(parents)
            ]
        return Shape(tuple(nodes))

    @property
    def correlation(self) -> float:
        return 1.0 / (1.0 + self.split_scale**2)

    @property
    def leaves_per_tree(self) -> int:
        return prod(self.fan_out for _ in self.forks)

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.shared_start:
            return f"the leaves of a tree share their start already; shared_start has no meaning in plan '{self.type}'"
        if not self.forks:
            return "the list of forks is empty; use plan 'all' for trajectories without forks"
        if len(set(self.forks)) < len(self.forks) or max(self.forks) > steps - 2:
            return f"forks {list(self.forks)} must be different steps out of 0 .. {steps - 2} (the last step is deterministic)"
        if group_size % self.leaves_per_tree:
            return (
                f"a tree that forks {len(self.forks)} times into {self.fan_out} has {self.leaves_per_tree} leaves; "
                f"rollout.group_size = {group_size} must be a multiple of that"
            )
        return self.window.complaint(steps, group_size) if self.window else None
