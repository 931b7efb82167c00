"""The shape of a group's rollout: a tree of states as plain data, before any network has run.

A plan draws a shape; the rollout fills it with states; credit reads it. Counting network evaluations, finding leaves and
checking a plan need nothing else. G members per group, S steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from flowgrpo.sampling.kernels import Kernel


@dataclass(frozen=True, slots=True)
class Node:
    """A state, and the transition that made it.

    `parent` is an index into the shape (None for a start); `step` counts the transitions behind it (0 .. S);
    `member` and `branch` key its noise: (seed, update, prompt, member, branch, step).
    """

    parent: int | None
    step: int
    member: int
    branch: int = 0
    kernel: Kernel | None = None
    trained: bool = False


@dataclass(frozen=True)
class Shape:
    """Nodes with parents before children."""

    nodes: tuple[Node, ...]

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            if node.parent is not None:
                found[node.parent].append(i)
        return tuple(tuple(c) for c in found)

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        return tuple(i for i, c in enumerate(self.children) if not c)

    @cached_property
    def trained(self) -> tuple[int, ...]:
        return tuple(i for i, node in enumerate(self.nodes) if node.trained)

    @property
    def network_evaluations(self) -> int:
        """One per state that has children, however many."""
        return sum(bool(c) for c in self.children)

    @cached_property
    def descendant_leaves(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the leaves below it (itself, when it is a leaf)."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for leaf in self.leaves:
            at: int | None = leaf
            while at is not None:
                found[at].append(leaf)
                at = self.nodes[at].parent
        return tuple(tuple(f) for f in found)

    @classmethod
    def chains(cls, kernels: Sequence[Kernel], group_size: int, shared_start: bool) -> Self:
        """G trajectories with `kernels[i]` at step i; stochastic steps are trained.

        With a shared start all members begin from one noise and walk the deterministic prefix together: one chain that
        forks at the first stochastic step.
        """
        fork = next((i for i, k in enumerate(kernels) if k.stochastic), len(kernels)) if shared_start else 0
        nodes = [Node(None, 0, 0)] if shared_start else [Node(None, 0, m) for m in range(group_size)]
        tips = list(range(len(nodes)))
        for i, kernel in enumerate(kernels):
            if shared_start and i == fork:
                tips = tips * group_size
            for m, tip in enumerate(tips):
                nodes.append(Node(tip, i + 1, m, 0, kernel, kernel.stochastic))
            tips = list(range(len(nodes) - len(tips), len(nodes)))
        return cls(tuple(nodes))
