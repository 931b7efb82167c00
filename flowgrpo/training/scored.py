"""From rewards on an update's trees to what is trained with which advantage: credit, normalisation, selection.

P groups (prompts) of one shape with N nodes; C trained transitions of the whole update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import NotFinite
from flowgrpo.core.keys import numpy_generator
from flowgrpo.core.rounding import rounding
from flowgrpo.data.prompts import Prompt
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.advantage import Scopes, Stream, advantages, varies
from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.objective.selection import Selection
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.combine import sum_rounding, summands, weighted_sum


@dataclass(frozen=True)
class Group:
    """The rollout of one prompt, scored: rewards by label and log-probs, [N] each, NaN where there is none.

    `decisions` [N] is how many decisions of a transition count.
    """

    rewards: dict[str, np.ndarray]
    log_probs: np.ndarray
    decisions: np.ndarray


@dataclass(frozen=True)
class Scored:
    """An update's groups. All arrays are [P, N], but `rounding` [P].

    `rewards`, by label, are NaN where not scored; `total` is what they are combined to, and totals that differ by no more than
    `rounding` are equal. `in_loss` says which transitions are trained: their credit differs from that of others in their set,
    they made `decisions`, and the selection has chosen them.
    `turning` marks turning points.
    """

    shape: Shape
    rewards: dict[str, np.ndarray]
    total: np.ndarray
    rounding: np.ndarray
    advantage: np.ndarray
    in_loss: np.ndarray
    decisions: np.ndarray
    turning: np.ndarray

    def counted(self, slots: Sequence[int], unit: Literal["transition", "decision"]) -> float:
        """How many transitions of these groups are in the loss, or decisions of such."""
        in_loss = self.in_loss[slots]
        return float(in_loss.sum() if unit == "transition" else self.decisions[slots][in_loss].sum())

    def metrics(self) -> dict[str, float]:
        outcomes, trained = list(self.shape.outcomes), list(self.shape.trained)
        final = self.total[:, outcomes]
        rows = np.repeat(np.arange(len(final)), len(outcomes))
        metrics = {
            "reward": float(final.mean()),
            **{f"reward/{label}": float(values[:, outcomes].mean()) for label, values in self.rewards.items()},
            "advantage/zero_variance_groups": float(np.mean(~varies(final.ravel(), rows, self.rounding[rows]))),
            "advantage/std": float(self.advantage[:, trained].std()),
            "advantage/trained_share": float(self.in_loss[:, trained].mean()),
        }
        return metrics | ({"credit/turning_points": float(self.turning[:, trained].mean())} if self.turning.any() else {})


def group_rewards(shape: Shape, scores: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """For each group the rewards [N] by label, from the scores of all groups' leaves one after the other."""
    leaves = list(shape.leaves)
    rows = {label: values.reshape(-1, len(leaves)) for label, values in scores.items()}
    nodes = {label: np.full((len(values), len(shape.nodes)), np.nan) for label, values in rows.items()}
    for label, values in rows.items():
        nodes[label][:, leaves] = values
    return [dict(zip(nodes, group, strict=True)) for group in zip(*nodes.values(), strict=True)]


@dataclass(frozen=True)
class Assessment:
    """What is trained with which advantage: credit on the combined rewards, normalised, then selected. `seed` is the run's."""

    rewards: Mapping[str, RewardConfig]
    credit: Credit
    advantage: AdvantageConfig
    selection: Sequence[Selection]
    seed: int

    @classmethod
    def of(cls, config: Config) -> "Assessment":
        return cls(config.rewards, config.credit, config.advantage, config.selection, config.seed)

    def __call__(self, shape: Shape, prompts: Sequence[Prompt], groups: Sequence[Group], update: int) -> Scored:
        """Of the groups of these prompts, one each."""
        rewards = {label: np.stack([group.rewards[label] for group in groups]) for label in self.rewards}
        terms = summands(rewards, self.rewards)
        total, bound = weighted_sum(terms, self.rewards), sum_rounding(terms, self.rewards)
        credited, bounds, weights = self._credited(shape, groups, terms, total, bound)
        trained = list(shape.trained)
        streams = {label: _stream(trees, bounds[label], trained) for label, trees in credited.items()}
        values, varied = advantages(streams, weights, _scopes(shape, len(groups)), self.advantage)
        if not np.isfinite(values).all():
            raise NotFinite("advantages are not finite numbers; rewards or their weights are too large: scale them down")
        advantage, in_loss = np.zeros(total.shape), np.zeros(total.shape, bool)
        advantage[:, trained], in_loss[:, trained] = (x.reshape(len(groups), -1) for x in (values, varied))
        in_loss &= np.stack([self._selected(shape, *row, update) for row in zip(advantage, prompts, strict=True)])
        decisions = np.stack([group.decisions for group in groups])
        in_loss &= decisions > 0
        turning = _turning(list(credited.values()), total.shape)
        return Scored(shape, rewards, total, bound, advantage, in_loss, decisions, turning)

    def _credited(
        self, shape: Shape, groups: Sequence[Group], terms: Mapping[str, np.ndarray], total: np.ndarray, bound: np.ndarray
    ) -> tuple[dict[str, list[Credited]], dict[str, np.ndarray], dict[str, float]]:
        """By label: the credit of each group, the rounding [P] of what was credited, and its weight among the advantages."""
        if self.advantage.aggregate == "rewards":
            values, bounds, weights = {"total": total}, {"total": bound}, {"total": 1.0}
        else:
            values, weights = dict(terms), {label: self.rewards[label].weight for label in terms}
            bounds = {label: rounding(rows, axis=1) for label, rows in terms.items()}
        credited = {
            label: [
                self.credit.credited(ScoredTree(shape, row, group.log_probs, float(least)))
                for row, group, least in zip(rows, groups, bounds[label], strict=True)
            ]
            for label, rows in values.items()
        }
        return credited, bounds, weights

    def _selected(self, shape: Shape, advantage: np.ndarray, prompt: Prompt, update: int) -> np.ndarray:
        """[N] booleans for one group: what all selections choose."""
        chosen = np.ones(len(shape.nodes), bool)
        for i, rule in enumerate(self.selection):
            rng = numpy_generator((self.seed, "selection", update, prompt.index, i))
            chosen &= rule.chosen(shape, advantage, update, rng)
        return chosen


def _stream(trees: Sequence[Credited], bound: np.ndarray, trained: list[int]) -> Stream:
    """One reward's credit of all groups, [C]; `bound` [P] is the rounding of its rewards."""
    ones = np.ones(len(trees[0].value))
    columns = [(t.value, ones if t.scale is None else t.scale, 0 * ones if t.offset is None else t.offset) for t in trees]
    value, scale, offset = (np.stack(column)[:, trained].ravel() for column in zip(*columns, strict=True))
    return Stream(value, scale, offset, np.repeat(bound, len(trained)))


def _scopes(shape: Shape, groups: int) -> Scopes:
    trained = list(shape.trained)
    root, step = np.array(shape.roots)[trained], np.array([shape.nodes[i].step for i in trained])
    return Scopes(np.repeat(np.arange(groups), len(trained)), np.tile(root, groups), np.tile(step, groups))


def _turning(streams: Sequence[Sequence[Credited]], shape: tuple[int, ...]) -> np.ndarray:
    """[P, N]: turning points of any reward."""
    marks = np.zeros(shape, bool)
    for trees in streams:
        marks |= np.stack([np.zeros(shape[1], bool) if tree.turning is None else tree.turning for tree in trees])
    return marks
