"""The shape of a group's rollout: a tree of states as plain data, before any network has run.

A plan draws a shape; the rollout fills it with states; credit reads it. Counting network evaluations, finding leaves and
checking a plan need nothing else. G members per group, S steps, N nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

from flowgrpo.sampling.kernels import Kernel, Move


@dataclass(frozen=True, slots=True)
class Node:
    """A state, and the transition that made it.

    `parent` is an index into the shape (None for a start); `step` is its noise level, from 0 (noise) to S (sample);
    `member` and `branch` key its noise: (seed, update, prompt, member, branch, step). `correlation` is that of its noise
    with its siblings'. A `completing` node exists only to value the state that it completes; it is no sample
    of the policy. A `valued` node has a value as it is, on its way to a sample: a reward's, or a learned one where it is
    `watched`, which says that what the network computes there is kept. A trained node that is `backward` is trained by the
    gradient of the rewards, not by its density: back through all `steps` that follow, or through one `jump` to the sample.
    """

    parent: int | None
    step: int
    member: int
    branch: int = 0
    kernel: Kernel | None = None
    trained: bool = False
    correlation: float = 0.0
    completing: bool = False
    valued: bool = False
    watched: bool = False
    backward: Literal["steps", "jump"] | None = None

    @property
    def scored(self) -> bool:
        """Whether it has a value that is a reward."""
        return self.valued and not self.watched


@dataclass(frozen=True)
class Shape:
    """Nodes with parents before children."""

    nodes: tuple[Node, ...]

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        children: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            if node.parent is not None:
                children[node.parent].append(i)
        return tuple(tuple(c) for c in children)

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Every state without children; these are decoded and scored."""
        return tuple(i for i, c in enumerate(self.children) if not c)

    @cached_property
    def valued(self) -> tuple[int, ...]:
        """The states that have a value as they are, on their way."""
        return tuple(i for i, node in enumerate(self.nodes) if node.valued)

    @cached_property
    def scored(self) -> tuple[int, ...]:
        """Those of them whose value is a reward."""
        return tuple(i for i, node in enumerate(self.nodes) if node.scored)

    @cached_property
    def watched(self) -> tuple[int, ...]:
        """The states whose features are kept."""
        return tuple(i for i, node in enumerate(self.nodes) if node.watched)

    @cached_property
    def outcomes(self) -> tuple[int, ...]:
        """The leaves that are samples of the policy."""
        return tuple(i for i in self.leaves if not self.nodes[i].completing)

    @cached_property
    def trained(self) -> tuple[int, ...]:
        return tuple(i for i, node in enumerate(self.nodes) if node.trained)

    @property
    def network_evaluations(self) -> int:
        """One per state that has children, however many."""
        return sum(bool(c) for c in self.children)

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """For each node, the start that it grew from."""
        roots: list[int] = []
        for i, node in enumerate(self.nodes):
            roots.append(i if node.parent is None else roots[node.parent])
        return tuple(roots)

    @cached_property
    def outcomes_below(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the outcomes below it (itself, when it is one)."""
        below: list[list[int]] = [[] for _ in self.nodes]
        for leaf in self.outcomes:
            for node in self.path(leaf):
                below[node].append(leaf)
        return tuple(tuple(leaves) for leaves in below)

    @cached_property
    def completions(self) -> tuple[int | None, ...]:
        """For each node, what has its value: the leaf that it reaches by deterministic transitions alone, or itself where it is
        `valued`; None where nothing has."""
        leaves: list[int | None] = [i if node.valued or not self.children[i] else None for i, node in enumerate(self.nodes)]
        for i in reversed(range(len(self.nodes))):
            node = self.nodes[i]
            if node.parent is not None and node.kernel is not None and not node.kernel.stochastic:
                leaves[node.parent] = leaves[i]
        return tuple(leaves)

    @cached_property
    def trajectories(self) -> tuple[tuple[int, ...], ...]:
        """For each trained node that no trained node follows, the trained nodes from the start to it, in order."""
        paths = [[i for i in reversed(self.path(node)) if self.nodes[i].trained] for node in self.trained]
        followed = {i for path in paths for i in path[:-1]}
        return tuple(tuple(path) for path in paths if path[-1] not in followed)

    def numbered_from(self, first: int) -> Self:
        """The same of members that are counted from `first` on."""
        return replace(self, nodes=tuple(replace(node, member=node.member + first) for node in self.nodes))

    def beside(self, other: Self) -> Self:
        """These nodes, and behind them the other's: trees of one group."""
        count = len(self.nodes)
        moved = (replace(n, parent=None if n.parent is None else n.parent + count) for n in other.nodes)
        return replace(self, nodes=(*self.nodes, *moved))

    def path(self, node: int) -> list[int]:
        """The node and its ancestors, the start last."""
        path = [node]
        while (parent := self.nodes[path[-1]].parent) is not None:
            path.append(parent)
        return path

    def move(self, i: int) -> Move:
        """The transition that makes node i."""
        node = self.nodes[i]
        assert node.parent is not None and node.kernel is not None
        parent = self.nodes[node.parent]
        before = parent.parent if parent.kernel is not None and parent.kernel.multistep else None
        return Move(node.kernel, parent.step, node.step, None if before is None else self.nodes[before].step)

    def tail(self, i: int) -> tuple[Move, ...]:
        """From the state that `backward` node i leaves to the only sample below it: what the gradient goes back through."""
        (outcome,) = self.outcomes_below[i]
        if self.nodes[i].backward == "jump":
            return (replace(self.move(i), target=self.nodes[outcome].step),)
        path = self.path(outcome)
        return tuple(self.move(node) for node in reversed(path[: path.index(i) + 1]))

    @classmethod
    def chains(cls, moves: Sequence[tuple[Kernel, int]], group_size: int, shared_start: bool) -> Self:
        """G trajectories of the same `moves` (kernel, target level); stochastic ones are trained.

        With a shared start all members begin from one noise and walk the deterministic prefix together: one chain that
        forks at the first stochastic step.
        """
        fork = next((i for i, (kernel, _) in enumerate(moves) if kernel.stochastic), len(moves)) if shared_start else 0
        nodes = [Node(None, 0, 0)] if shared_start else [Node(None, 0, m) for m in range(group_size)]
        tips = list(range(len(nodes)))
        for i, (kernel, target) in enumerate(moves):
            if shared_start and i == fork:
                tips = tips * group_size
            for m, tip in enumerate(tips):
                nodes.append(Node(tip, target, m, 0, kernel, kernel.stochastic))
            tips = list(range(len(nodes) - len(tips), len(nodes)))
        return cls(tuple(nodes))
