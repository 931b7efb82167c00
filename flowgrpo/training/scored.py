"""From rewards on an update's trees to what is trained with which advantage: credit, normalisation, selection.

P groups (prompts) with at most N nodes each; C trained transitions of the whole update.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import NotFinite
from flowgrpo.core.keys import numpy_generator
from flowgrpo.core.rounding import rounding
from flowgrpo.data.prompts import Prompt
from flowgrpo.objective import AdvantageConfig, Reduce
from flowgrpo.objective.advantage import Scopes, Stream, advantages, remembered
from flowgrpo.objective.baseline import Remembering
from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.objective.memory import Memory
from flowgrpo.objective.selection import Selection
from flowgrpo.objective.transform import Graded, Transform, transformed
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.combine import sum_rounding, summands, weighted_sum


@dataclass(frozen=True)
class Group:
    """The rollout of one prompt, scored: rewards by label and log-probs, by node of its shape, NaN where there is none.

    `decisions` is how many decisions of a transition count; `features` [W, F] are those of the shape's watched states; `texts`
    are the outcomes', and `entropy`, by node, that of its decisions, where anybody reads them.
    """

    shape: Shape
    rewards: dict[str, np.ndarray]
    log_probs: np.ndarray
    decisions: np.ndarray
    features: np.ndarray | None = None
    texts: Sequence[str] = ()
    entropy: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Scored:
    """An update's groups, and the indices of their `prompts`. All arrays are [P, N], but `rounding` [P]; the places that a
    smaller group has not are NaN, 0 or False.

    `rewards`, by label, are NaN where not scored; `total` is what they are combined to, and `trained_on` what transforms make of
    that; two of the latter that differ by no more than `rounding` are equal. `in_loss` says which transitions are trained: their
    credit differs from that of others in their set, they made `decisions`, and the selection has chosen them.
    `turning` marks turning points. `memory` is what a baseline knows of prompts once this update is done.
    """

    prompts: list[int]
    shapes: list[Shape]
    rewards: dict[str, np.ndarray]
    total: np.ndarray
    trained_on: np.ndarray
    rounding: np.ndarray
    advantage: np.ndarray
    in_loss: np.ndarray
    decisions: np.ndarray
    turning: np.ndarray
    memory: Memory

    def votes(self, slots: Sequence[int], reduce: Reduce) -> tuple[np.ndarray, float]:
        """([P, N] the weight of each transition in the loss of these groups, by what their sum is divided to be a mean).

        Weights are 1 in the loss and 0 else. With `step` they are such that every step weighs the same, and in a step every
        group with a transition there, whether that is in the loss or not: then the weights know nothing of the rewards.
        """
        in_loss = np.zeros(self.in_loss.shape, bool)
        in_loss[slots] = self.in_loss[slots]
        if reduce != "step":
            return in_loss.astype(float), float(self.decisions[in_loss].sum() if reduce == "decision" else in_loss.sum())
        rows, nodes = _places([self.shapes[slot].trained for slot in slots])
        groups = np.array(slots)[rows]
        steps = np.array([self.shapes[group].nodes[node].step for group, node in zip(groups, nodes, strict=True)])
        cells, cell, members = np.unique(np.stack([steps, groups]), axis=1, return_inverse=True, return_counts=True)
        _, row, peers = np.unique(cells[0], return_inverse=True, return_counts=True)
        weights = np.zeros(in_loss.shape)
        weights[groups, nodes] = len(steps) / (len(peers) * peers[row] * members)[cell.reshape(-1)]
        return weights * in_loss, float(len(steps))

    def metrics(self) -> dict[str, float]:
        outcomes, trained = _places([s.outcomes for s in self.shapes]), _places([s.trained for s in self.shapes])
        final = self.trained_on[outcomes]
        metrics = {
            "reward": float(self.total[outcomes].mean()),
            **{f"reward/{label}": float(values[outcomes].mean()) for label, values in self.rewards.items()},
            "advantage/zero_variance_groups": float(np.mean(alike(self.shapes, self.trained_on, self.rounding))),
            "advantage/std": float(self.advantage[trained].std()),
            "advantage/trained_share": float(self.in_loss[trained].mean()),
        }
        if self.trained_on is not self.total:
            metrics["reward_trained_on"] = float(final.mean())
        return metrics | ({"credit/turning_points": float(self.turning[trained].mean())} if self.turning.any() else {})


def alike(shapes: Sequence[Shape], total: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    """[P]: whether all samples of a group, more than one, earn the same `total` [P, N], but for their `rounding` [P]."""
    outcomes = [total[group, list(shape.outcomes)] for group, shape in enumerate(shapes)]
    return np.array([len(row) > 1 and np.ptp(row) <= bound for row, bound in zip(outcomes, rounding, strict=True)])


Learned = Callable[[Sequence["Group"], np.ndarray], np.ndarray]
"""Of groups, and K reward terms [K, P, N] of their nodes: the same, with those of states that were not scored."""
Places = tuple[np.ndarray, np.ndarray]
"""The groups and the nodes of [C] transitions, or of samples: an index of [P, N]."""


def _places(nodes: Sequence[Sequence[int]]) -> Places:
    """These nodes of each group, one group after the other."""
    groups = np.repeat(np.arange(len(nodes)), [len(row) for row in nodes])
    return groups, np.concatenate([np.array(row, int) for row in nodes])


def padded(rows: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """[P, N] from arrays of at most N numbers."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=rows[0].dtype)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    return table


@dataclass(frozen=True)
class Assessment:
    """What is trained with which advantage: credit on the combined rewards, normalised, then selected. `seed` is the run's."""

    rewards: Mapping[str, RewardConfig]
    credit: Credit
    advantage: AdvantageConfig
    selection: Sequence[Selection]
    seed: int
    transforms: Sequence[Transform] = ()

    @classmethod
    def of(cls, config: Config) -> "Assessment":
        return cls(config.rewards, config.credit, config.advantage, config.selection, config.seed, config.transforms)

    def __call__(
        self,
        prompts: Sequence[Prompt],
        groups: Sequence[Group],
        update: int,
        learned: Learned | None = None,
        memory: Memory | None = None,
        moved: Mapping[int, float] | None = None,
    ) -> Scored:
        """Of the groups of these prompts, one each; `learned` values states on their way, `memory` is of the updates before, and
        `moved` says how far the policy has moved since."""
        shapes, indices = [group.shape for group in groups], [prompt.index for prompt in prompts]
        rewards, terms, total, bound = self._totals(groups)
        if learned:
            valued = learned(groups, np.stack([*terms.values(), total]))
            terms, total = dict(zip(terms, valued[:-1], strict=True)), valued[-1]
        seen, bound = self._transformed(shapes, rewards, total, bound, update)
        rules = self if learned is None else self.where_valued(shapes)
        credited, bounds, weights = rules._credited(groups, terms, seen, bound)
        streams = {label: _stream(shapes, trees, bounds[label]) for label, trees in credited.items()}
        memory = memory or Memory()
        if isinstance(self.advantage.baseline, Remembering):
            values, varied, memory = remembered(streams, weights, _scopes(shapes), indices, memory, self.advantage, moved)
        else:
            values, varied = advantages(streams, weights, _scopes(shapes), self.advantage)
        if not np.isfinite(values).all():
            raise NotFinite("advantages are not finite numbers; rewards or their weights are too large: scale them down")
        trained = _places([shape.trained for shape in shapes])
        advantage, in_loss = np.zeros(total.shape), np.zeros(total.shape, bool)
        advantage[trained], in_loss[trained] = values, varied
        trees = [self._accompanied(tree_of(*row)) for row in zip(groups, seen, bound, strict=True)]
        self._modify(trees, advantage)
        selected = [rules._selected(*row, update) for row in zip(trees, advantage, prompts, strict=True)]
        decisions = padded([group.decisions for group in groups], 0.0)
        in_loss &= padded(selected, False) & (decisions > 0)
        turning = _turning(shapes, list(credited.values()))
        return Scored(indices, shapes, rewards, total, seen, bound, advantage, in_loss, decisions, turning, memory)

    def teaching(self, groups: Sequence[Group], update: int) -> int:
        """In how many groups samples earn something else than others."""
        return len(groups) - int(alike([group.shape for group in groups], *self.earned(groups, update)).sum())

    def earned(self, groups: Sequence[Group], update: int) -> tuple[np.ndarray, np.ndarray]:
        """(what is trained on [P, N], how far apart values of a group may be that are equal but for rounding [P])."""
        rewards, _, total, bound = self._totals(groups)
        return self._transformed([group.shape for group in groups], rewards, total, bound, update)

    def _transformed(
        self, shapes: Sequence[Shape], rewards: Mapping[str, np.ndarray], total: np.ndarray, bound: np.ndarray, update: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(what is trained on [P, N], how far apart values of a group may be that are equal but for rounding [P])."""
        if not self.transforms:
            return total, bound
        places = [(slot, list(shape.outcomes)) for slot, shape in enumerate(shapes)]
        groups = [Graded(total[place], {label: values[place] for label, values in rewards.items()}) for place in places]
        seen = total.copy()
        for place, values in zip(places, transformed(self.transforms, groups, update), strict=True):
            seen[place] = values
        return seen, np.maximum(bound, rounding(seen, axis=1))

    def _totals(self, groups: Sequence[Group]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Of the groups' rewards [P, N]: by label as they are, and as they are summed; the sum, and its rounding [P]."""
        rewards = {label: padded([group.rewards[label] for group in groups], np.nan) for label in self.rewards}
        terms = summands(rewards, self.rewards)
        return rewards, terms, weighted_sum(terms, self.rewards), sum_rounding(terms, self.rewards)

    def where_valued(self, shapes: Sequence[Shape]) -> Self:
        """The rules that can work on these shapes: terminal credit instead of one that lacks values, no selection that does."""
        lacks = any(self.credit.complaint(shape) for shape in shapes)
        selection = [rule for rule in self.selection if not any(rule.complaint(shape) for shape in shapes)]
        return replace(self, credit=Terminal() if lacks else self.credit, selection=selection)

    def _credited(
        self, groups: Sequence[Group], terms: Mapping[str, np.ndarray], total: np.ndarray, bound: np.ndarray
    ) -> tuple[dict[str, list[Credited]], dict[str, np.ndarray], dict[str, float]]:
        """By label: the credit of each group, the rounding [P] of what was credited, and its weight among the advantages."""
        if self.advantage.aggregate == "rewards":
            values, bounds, weights = {"total": total}, {"total": bound}, {"total": 1.0}
        else:
            values, weights = dict(terms), {label: self.rewards[label].weight for label in terms}
            bounds = {label: rounding(rows, axis=1) for label, rows in terms.items()}
        credited = {
            label: [
                self.credit.credited(tree_of(group, row, least))
                for row, group, least in zip(rows, groups, bounds[label], strict=True)
            ]
            for label, rows in values.items()
        }
        return credited, bounds, weights

    def _accompanied(self, tree: ScoredTree) -> ScoredTree:
        """With those whom the baseline brings along, where a selection reads them."""
        if not any(rule.reads_company for rule in self.selection):
            return tree
        samples = tree.rewards[list(tree.shape.outcomes)]
        return replace(tree, company=self.advantage.baseline.company(samples)[len(samples) :])

    def _modify(self, trees: Sequence[ScoredTree], advantage: np.ndarray) -> None:
        """Change the advantages [P, N] in place, by all modifiers."""
        for tree, row in zip(trees, advantage, strict=True):
            for rule in self.advantage.modifiers:
                row[: len(tree.shape.nodes)] = rule.modified(tree, row[: len(tree.shape.nodes)])

    def _selected(self, tree: ScoredTree, advantage: np.ndarray, prompt: Prompt, update: int) -> np.ndarray:
        """Booleans for the nodes of one group: what all selections choose."""
        advantage = advantage[: len(tree.shape.nodes)]
        chosen = np.ones(len(advantage), bool)
        for i, rule in enumerate(self.selection):
            rng = numpy_generator((self.seed, "selection", update, prompt.index, i))
            chosen &= rule.chosen(tree, advantage, update, rng)
        return chosen


def tree_of(group: Group, rewards: np.ndarray, least: float) -> ScoredTree:
    """A group with these rewards, a row of [P, N], whose rounding is `least`."""
    values = rewards[: len(group.shape.nodes)]
    return ScoredTree(group.shape, values, group.log_probs, float(least), group.decisions, group.texts, group.entropy)


def _stream(shapes: Sequence[Shape], trees: Sequence[Credited], bound: np.ndarray) -> Stream:
    """One reward's credit of all groups, [C]; `bound` [P] is the rounding of its rewards."""

    def column(values: Sequence[np.ndarray | None], otherwise: float) -> np.ndarray:
        rows = [
            np.full(len(shape.trained), otherwise) if value is None else value[list(shape.trained)]
            for shape, value in zip(shapes, values, strict=True)
        ]
        return np.concatenate(rows)

    return Stream(
        column([tree.value for tree in trees], 0.0),
        column([tree.scale for tree in trees], 1.0),
        column([tree.offset for tree in trees], 0.0),
        np.repeat(bound, [len(shape.trained) for shape in shapes]),
    )


def _scopes(shapes: Sequence[Shape]) -> Scopes:
    groups, nodes = _places([shape.trained for shape in shapes])
    root = [shapes[group].roots[node] for group, node in zip(groups, nodes, strict=True)]
    step = [shapes[group].nodes[node].step for group, node in zip(groups, nodes, strict=True)]
    return Scopes(groups, np.array(root), np.array(step))


def _turning(shapes: Sequence[Shape], streams: Sequence[Sequence[Credited]]) -> np.ndarray:
    """[P, N]: turning points of any reward."""
    none = [np.zeros(len(shape.nodes), bool) for shape in shapes]
    marks = [
        padded([flat if tree.turning is None else tree.turning for flat, tree in zip(none, trees, strict=True)], False)
        for trees in streams
    ]
    return np.logical_or.reduce(marks)
