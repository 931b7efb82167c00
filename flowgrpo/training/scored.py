"""From rewards on an update's trees to what is trained with which advantage: credit, normalisation, selection.

P groups (prompts) of one shape with N nodes; C trained transitions of the whole update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.core.errors import NotFinite
from flowgrpo.core.keys import Key, numpy_generator
from flowgrpo.core.rounding import rounding
from flowgrpo.data.prompts import Prompt, batches
from flowgrpo.objective.advantage import Place, Stream, advantages, varies
from flowgrpo.objective.credit import Credited, ScoredTree
from flowgrpo.policies.protocol import Policy
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.combine import sum_rounding, summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.rollout import rollout


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
    `rounding` are equal. `kept` says which transitions are
    trained: their credit differs from that of others in their set, they made `decisions`, and the selection has chosen them.
    `turning` marks turning points.
    """

    shape: Shape
    rewards: dict[str, np.ndarray]
    total: np.ndarray
    rounding: np.ndarray
    advantage: np.ndarray
    kept: np.ndarray
    decisions: np.ndarray
    turning: np.ndarray

    def counted(self, slots: Sequence[int], unit: Literal["transition", "decision"]) -> float:
        """How many kept transitions these groups have, or decisions of such."""
        kept = self.kept[slots]
        return float(kept.sum() if unit == "transition" else self.decisions[slots][kept].sum())

    def metrics(self) -> dict[str, float]:
        outcomes, trained = list(self.shape.outcomes), list(self.shape.trained)
        final = self.total[:, outcomes]
        rows = np.repeat(np.arange(len(final)), len(outcomes))
        found = {
            "reward": float(final.mean()),
            **{f"reward/{label}": float(values[:, outcomes].mean()) for label, values in self.rewards.items()},
            "advantage/zero_variance_groups": float(np.mean(~varies(final.ravel(), rows, self.rounding[rows]))),
            "advantage/std": float(self.advantage[:, trained].std()),
            "advantage/trained_share": float(self.kept[:, trained].mean()),
        }
        return found | ({"credit/turning_points": float(self.turning[:, trained].mean())} if self.turning.any() else {})


def group_rewards(shape: Shape, scores: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """For each group the rewards [N] by label, from the scores of all groups' leaves one after the other."""
    leaves = list(shape.leaves)
    rows = {label: values.reshape(-1, len(leaves)) for label, values in scores.items()}
    nodes = {label: np.full((len(values), len(shape.nodes)), np.nan) for label, values in rows.items()}
    for label, values in rows.items():
        nodes[label][:, leaves] = values
    return [dict(zip(nodes, group, strict=True)) for group in zip(*nodes.values(), strict=True)]


def scored_trees(
    config: Config, policy: Policy, scorer: Scorer, prompts: Sequence[Prompt], shape: Shape, key: Key
) -> tuple[list[ScoredTree], int]:
    """One group of this shape for each prompt, scored by the rewards' combination; and the network evaluations of it all."""
    trees: dict[int, ScoredTree] = {}
    evaluations = 0
    for places in batches(prompts, config.rollout.prompts_per_block, config.policy.batch_key):
        block = rollout(policy, [prompts[i] for i in places], shape, key, config.rollout.micro_batch, False)
        rows = group_rewards(shape, scorer(block.samples))
        rewards = {label: np.stack([row[label] for row in rows]) for label in config.rewards}
        trees |= dict(zip(places, _trees(shape, summands(rewards, config.rewards), config), strict=True))
        evaluations += block.network_evaluations
    return [trees[i] for i in range(len(prompts))], evaluations


def _trees(shape: Shape, parts: Mapping[str, np.ndarray], config: Config) -> list[ScoredTree]:
    bounds = sum_rounding(parts, config.rewards)
    return [
        ScoredTree(shape, total, rounding=float(bound))
        for total, bound in zip(weighted_sum(parts, config.rewards), bounds, strict=True)
    ]


def assess(config: Config, shape: Shape, prompts: Sequence[Prompt], groups: Sequence[Group], update: int) -> Scored:
    rewards = {label: np.stack([group.rewards[label] for group in groups]) for label in config.rewards}
    parts = summands(rewards, config.rewards)
    weights = {label: config.rewards[label].weight for label in parts}
    total = weighted_sum(parts, config.rewards)
    summed = config.advantage.aggregate == "rewards"
    bound = sum_rounding(parts, config.rewards)
    bounds = {"total": bound} if summed else {label: rounding(values, axis=1) for label, values in parts.items()}
    credited = {
        label: [
            config.credit.credited(ScoredTree(shape, row, group.log_probs, float(least)))
            for row, group, least in zip(values, groups, bounds[label], strict=True)
        ]
        for label, values in ({"total": total} if summed else parts).items()
    }
    trained = list(shape.trained)
    streams = {label: _stream(trees, bounds[label], trained) for label, trees in credited.items()}
    values, varied = advantages(streams, {"total": 1.0} if summed else weights, _place(shape, len(groups)), config.advantage)
    if not np.isfinite(values).all():
        raise NotFinite("advantages are not finite numbers; rewards or their weights are too large: scale them down")
    advantage, kept = np.zeros(total.shape), np.zeros(total.shape, bool)
    advantage[:, trained], kept[:, trained] = (x.reshape(len(groups), -1) for x in (values, varied))
    kept &= np.stack([_selected(config, shape, row, prompt, update) for row, prompt in zip(advantage, prompts, strict=True)])
    decisions = np.stack([group.decisions for group in groups])
    kept &= decisions > 0
    return Scored(shape, rewards, total, bound, advantage, kept, decisions, _turning(list(credited.values()), total.shape))


def _stream(trees: Sequence[Credited], bound: np.ndarray, trained: list[int]) -> Stream:
    """One reward's credit of all groups, [C]; `bound` [P] is the rounding of its rewards."""
    ones = np.ones(len(trees[0].value))
    columns = [(t.value, ones if t.scale is None else t.scale, 0 * ones if t.offset is None else t.offset) for t in trees]
    value, scale, offset = (np.stack(part)[:, trained].ravel() for part in zip(*columns, strict=True))
    return Stream(value, scale, offset, np.repeat(bound, len(trained)))


def _place(shape: Shape, groups: int) -> Place:
    trained = list(shape.trained)
    root, step = np.array(shape.roots)[trained], np.array([shape.nodes[i].step for i in trained])
    return Place(np.repeat(np.arange(groups), len(trained)), np.tile(root, groups), np.tile(step, groups))


def _selected(config: Config, shape: Shape, advantage: np.ndarray, prompt: Prompt, update: int) -> np.ndarray:
    chosen = np.ones(len(shape.nodes), bool)
    for i, rule in enumerate(config.selection):
        rng = numpy_generator((config.seed, "selection", update, prompt.index, i))
        chosen &= rule.chosen(shape, advantage, update, rng)
    return chosen


def _turning(streams: Sequence[Sequence[Credited]], shape: tuple[int, ...]) -> np.ndarray:
    """[P, N]: turning points of any reward."""
    marks = np.zeros(shape, bool)
    for trees in streams:
        marks |= np.stack([np.zeros(shape[1], bool) if tree.turning is None else tree.turning for tree in trees])
    return marks
