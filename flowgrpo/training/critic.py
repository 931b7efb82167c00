"""What a state on the way is worth, as earlier updates' rewards let expect: the learned values of completion `learned`.

P groups with at most N nodes; K reward terms, the last their weighted sum; n states of a group at a level, F features each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.rounding import rounding
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.protocol import Policy, Watchable
from flowgrpo.sampling.completion.learned import LearnedValues
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.ridge import MEMORY, Ridge
from flowgrpo.training.scored import Group

STILL = 0.01
"""Features of a state move by no more than this share of what they move by with the state."""
Cell = tuple[int, list[int], np.ndarray, np.ndarray]
"""The states of a group at a level: (group, nodes, features [n, F], rewards below [n, K])."""


@dataclass
class Level:
    """V(x) = mean reward + between (mean x of the group - mean x of all) + within (x - mean x of the group).

    Each difference has a regression of its own, so what tells prompts apart can't hide what tells samples of a prompt apart.
    """

    within: Ridge
    between: Ridge
    mean: dict[str, np.ndarray] = field(default_factory=dict)
    """Running sums over groups: their `count`, mean `features` [F], mean `rewards` [K]."""

    @classmethod
    def of(cls, features: int, targets: int) -> "Level":
        mean = {"count": np.zeros(1), "features": np.zeros(features), "rewards": np.zeros(targets)}
        return cls(Ridge.of(features, targets), Ridge.of(features, targets), mean)

    def values(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[n, K] for each group's states, of their features [n, F]; 0 before anything is known."""
        count = self.mean["count"][0] or 1.0
        centres = np.stack([x.mean(0) for x in groups])
        common = self.mean["rewards"] / count + self.between.value(centres - self.mean["features"] / count)
        apart = self.within.value(np.concatenate([x - centre for x, centre in zip(groups, centres, strict=True)]))
        ends = np.cumsum([len(x) for x in groups])[:-1]
        return [whole + part for whole, part in zip(common, np.split(apart, ends), strict=True)]

    def see(self, groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Features and rewards of an update's groups."""
        centres, rewards = (np.stack([row.mean(0) for row in rows]) for rows in zip(*groups, strict=True))
        apart = [(x - x.mean(0), _centred(y)) for x, y in groups]
        xs, ys = (np.concatenate(rows) for rows in zip(*apart, strict=True))
        self.within.see(xs, ys, len(xs) - len(groups))
        news = {"count": np.array([float(len(groups))]), "features": centres.sum(0), "rewards": rewards.sum(0)}
        self.mean = {name: MEMORY * self.mean[name] + value for name, value in news.items()}
        count = self.mean["count"]
        self.between.see(centres - self.mean["features"] / count, rewards - self.mean["rewards"] / count, len(groups))


def _centred(y: np.ndarray) -> np.ndarray:
    """[n, K] less the mean, and 0 where all are equal but for rounding."""
    return np.where(np.ptp(y, axis=0) > rounding(y, axis=0), y - y.mean(0), 0.0)


class Critic:
    """Values the states of an update, and learns from it once it is whole.

    `used` says whether credit has learned values in the update that is made, and `news` is a sentence where that is new.
    Errors: UserError for a policy whose network can't be watched.
    """

    def __init__(self, config: Config, completion: LearnedValues, policy: Policy, prompt: Prompt) -> None:
        if not isinstance(policy, Watchable):
            raise UserError(
                f"policy '{config.policy.type}' does not show what its network computes, so completion 'learned' can't be used "
                "with it; take another one, such as {steps: 1}"
            )
        policy.require_watchable()
        _require_apart(policy, prompt, config.policy.steps - 1)
        if not config.shape().watched:
            raise UserError(
                "completion 'learned' has nothing to value: this plan continues each state without chance, so its value is "
                "known; leave it out"
            )
        self.completion, self.credit = completion, config.credit
        self.levels: dict[int, Level] = {}
        self.fresh: list[tuple[Level, list[tuple[np.ndarray, np.ndarray]]]] = []
        self.used = True
        self.news: str | None = None

    @classmethod
    def of(cls, config: Config, policy: Policy, prompt: Prompt) -> "Critic | None":
        """None where no values are learned. With any prompt it is tried out whether each state has features of its own."""
        completion = config.rollout.plan.completion
        return cls(config, completion, policy, prompt) if isinstance(completion, LearnedValues) else None

    @property
    def trusted(self) -> frozenset[int]:
        """The levels that are valued: predictions correlate well enough with rewards of later updates."""
        known = {step: level.within for step, level in self.levels.items() if level.within.known}
        return frozenset(step for step, ridge in known.items() if ridge.correlation[-1] >= self.completion.correlation)

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The same for a new update, with values where they are trusted."""
        switched = self.switched(shapes)
        used = all(shape.valued and self.credit.complaint(shape) is None for shape in switched)
        self.news = self._sentence(used) if used != self.used else None
        self.used = used
        return switched

    def switched(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The same, with values where they are trusted."""
        return [self.completion.switched(shape, self.trusted) for shape in shapes]

    def _sentence(self, used: bool) -> str:
        levels, least = sorted(self.trusted), f"by {self.completion.correlation:g} or more with later rewards of the same prompt"
        if used:
            return f"learned values are on: at levels {levels} they correlate {least}"
        best = max((level.within.correlation[-1] for level in self.levels.values()), default=0.0)
        why = f"so far they correlate {least} nowhere (at best {best:.2f})"
        if levels:
            why = f"they correlate {least} at levels {levels} only, and credit '{self.credit.type}' needs all"
        return f"learned values are off: {why}; until that changes, the credit of every step is the final reward"

    def __call__(self, groups: Sequence[Group], terms: np.ndarray) -> np.ndarray:
        """Terms [K, P, N] of an update's groups, with those of valued states. What they became waits for `take_in`."""
        filled, self.fresh = terms.copy(), []
        for step, cells in sorted(_by_level(groups, terms).items()):
            level = self._level(step, cells)
            for (group, nodes, _, _), values in zip(cells, level.values([x for _, _, x, _ in cells]), strict=True):
                valued = [i for i, node in enumerate(nodes) if groups[group].shape.nodes[node].valued]
                filled[:, group, [nodes[i] for i in valued]] = values[valued].T
            self.fresh.append((level, [(x, y) for _, _, x, y in cells]))
        return filled

    def take_in(self) -> None:
        """Learn from the groups that were valued last."""
        for level, rows in self.fresh:
            level.see(rows)
        self.fresh = []

    def _level(self, step: int, cells: Sequence[Cell]) -> Level:
        _, _, x, y = cells[0]
        level = self.levels.setdefault(step, Level.of(x.shape[1], y.shape[1]))
        if any(cell[2].shape[1:] != level.mean["features"].shape for cell in cells):
            raise UserError(
                f"completion 'learned': states of level {step} have more features in one group than in another, as pictures of "
                "different sizes may; take another completion"
            )
        return level

    def metrics(self) -> dict[str, float]:
        """Of every level the correlation with the rewards of later samples, within their groups."""
        rows = {f"value/correlation_{step}": float(self.levels[step].within.correlation[-1]) for step in sorted(self.levels)}
        return {"value/used": float(self.used), **rows}

    def state(self) -> dict[str, Tensor]:
        parts = {
            f"{step}/{part}/{name}": value
            for step, level in self.levels.items()
            for part, columns in (("within", vars(level.within)), ("between", vars(level.between)), ("mean", level.mean))
            for name, value in columns.items()
        }
        return {name: torch.from_numpy(value.copy()) for name, value in parts.items()}

    def load(self, tensors: Mapping[str, Tensor], used: bool) -> None:
        parts: dict[int, dict[str, dict[str, Any]]] = {}
        for name, tensor in tensors.items():
            step, part, column = name.split("/")
            parts.setdefault(int(step), {}).setdefault(part, {})[column] = tensor.numpy()
        self.levels = {
            step: Level(Ridge(**level["within"]), Ridge(**level["between"]), level["mean"]) for step, level in parts.items()
        }
        self.used = used


def _require_apart(policy: Policy, prompt: Prompt, step: int) -> None:
    """Of two states one is replaced: its features must move, and those of the other stay. Errors: UserError."""
    assert isinstance(policy, Watchable)
    first, kept, other = policy.start([prompt] * 3, [("watch", i) for i in range(3)])
    if torch.equal(kept, other):
        return
    (_, before), (_, after) = (policy.watch(torch.stack([x, first]), [prompt] * 2, step) for x in (kept, other))
    moved = (after - before).abs().amax(1)
    if not moved[1] <= STILL * moved[0] or not moved[0] > 0.0:
        raise UserError(
            "completion 'learned' can't tell which features of this network are of which state; take another one, such as "
            "{steps: 1}"
        )


def _by_level(groups: Sequence[Group], terms: np.ndarray) -> dict[int, list[Cell]]:
    cells: dict[int, list[Cell]] = {}
    for number, group in enumerate(groups):
        for step, nodes, x in _watched(group):
            below = [list(group.shape.outcomes_below[node]) for node in nodes]
            y = np.stack([terms[:, number, leaves].mean(-1) for leaves in below])
            cells.setdefault(step, []).append((number, nodes, x, y))
    return cells


def _watched(group: Group) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """(level, its watched nodes, their features [n, F])"""
    watched = group.shape.watched
    steps = [group.shape.nodes[node].step for node in watched]
    for step in sorted(set(steps)):
        rows = [i for i, at in enumerate(steps) if at == step]
        assert group.features is not None
        yield step, [watched[i] for i in rows], group.features[rows]
