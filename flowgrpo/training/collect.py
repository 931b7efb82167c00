"""Roll out groups for many prompts, block by block, and have them scored.

P prompts (groups) of an update, N nodes of a group.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from flowgrpo.config.run import Config
from flowgrpo.config.sections import Keep, RewardConfig, RolloutConfig
from flowgrpo.core.keys import Key
from flowgrpo.core.processes import Processes
from flowgrpo.core.progress import bar
from flowgrpo.data.prompts import Prompt, batches
from flowgrpo.objective.credit import ScoredTree
from flowgrpo.policies.protocol import Policy
from flowgrpo.sampling.shape import Shape
from flowgrpo.scoring.combine import sum_rounding, summands, weighted_sum
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.beside import Beside
from flowgrpo.training.phases import joined
from flowgrpo.training.rollout import Block, Transitions, leaves_of, rollout
from flowgrpo.training.scored import Group, padded


@dataclass(frozen=True)
class Rollouts:
    """How groups are rolled out: in blocks of prompts with one `batch_key`, and where their states wait. Groups tell what samples
    say with `texts`, and how undecided the policy was with `entropies`."""

    policy: Policy
    config: RolloutConfig
    batch_key: Callable[[Prompt], Hashable]
    keep_predictions: bool = False
    texts: bool = False
    entropies: bool = False
    keep_against: bool = False

    @classmethod
    def of(cls, config: Config, policy: Policy, keep_predictions: bool = False) -> "Rollouts":
        texts = any(rule.reads_texts for rule in config.advantage.modifiers)
        keep = keep_predictions or config.reads_entropy
        return cls(policy, config.rollout, config.policy.batch_key, keep, texts, config.reads_entropy, config.keeps_against)

    def blocks(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The prompts, by number, that are rolled out together."""
        return batches(prompts, self.config.prompts_per_block, self.batch_key)

    def __call__(self, prompts: Sequence[Prompt], shapes: Sequence[Shape], key: Key) -> Block:
        """A group for each prompt of a block, of the shape beside it."""
        if column := self.config.wordings:
            prompts = [prompt.in_wordings(column) for prompt in prompts]
        block = rollout(
            self.policy,
            prompts,
            shapes,
            key,
            self.config.micro_batch,
            self.keep_predictions,
            keep_against=self.keep_against,
            keep_graphs=self.config.keep == "graph",
        )
        block.transitions = [kept(t, self.config.keep) for t in block.transitions]
        return block


def kept(transitions: Transitions, keep: Keep) -> Transitions:
    """The transitions where they wait for the update."""
    return transitions.on_host() if keep == "host" else transitions


@dataclass(frozen=True)
class UpdateBlock:
    """A block of an update: the slots of its groups, their numbers in the update, and the way to the scores of its samples and of
    the states that are valued on their way."""

    slots: list[int]
    rollout: Block
    scores: Callable[[], dict[str, np.ndarray]]
    on_the_way: Callable[[], dict[str, np.ndarray]] = dict


Begin = Callable[[Sequence[Prompt], Sequence[Shape], Key], Callable[[], Block]]
"""Of a block: begins it elsewhere, and gives the way to what is rolled out."""
Begun = list[tuple[list[int], Callable[[], Block]]]
"""Blocks of an update: (the slots of their groups, the way to what is rolled out)."""


class Collector:
    """Prompts -> groups, rolled out and scored: by this process when they are asked for, unless `begin_elsewhere` begins them."""

    def __init__(
        self, rollouts: Rollouts, scorer: Scorer, processes: Processes, seed: int, begin_elsewhere: Begin | None = None
    ) -> None:
        self.rollouts, self.processes, self.seed = rollouts, processes, seed
        self.beside = Beside(scorer)
        self._begun = begin_elsewhere or (lambda *block: partial(rollouts, *block))

    def begin(
        self, prompts: Sequence[Prompt], shapes: Sequence[Shape], update: int, minibatches: Sequence[Sequence[int]]
    ) -> Begun:
        """This process's share of the blocks. No block reaches over two minibatches, the slots that share an optimizer step."""
        blocks = [
            [slots[i] for i in rows] for slots in minibatches for rows in self.rollouts.blocks([prompts[slot] for slot in slots])
        ]
        return [
            (slots, self._begun([prompts[slot] for slot in slots], [shapes[slot] for slot in slots], (self.seed, update)))
            for slots in self.processes.share(blocks)
        ]

    def roll_out(self, begun: Begun) -> list[UpdateBlock]:
        return [self._scored(slots, made()) for slots, made in bar(begun, "roll out", self.processes.is_main)]

    def _scored(self, slots: list[int], block: Block) -> UpdateBlock:
        """Its scores are on their way, to the process that speaks for its team."""
        if not self.processes.speaks:
            return UpdateBlock(slots, block, _asked_elsewhere)
        return UpdateBlock(slots, block, self.beside.scores(block.samples), partial(on_the_way, self.beside.scorer, block))

    def extend(self, blocks: Sequence[UpdateBlock], shapes: Sequence[Shape | None], update: int) -> list[UpdateBlock]:
        """The blocks with more samples of each slot, in shapes of members that have not been made; None: no more."""
        grown: list[tuple[UpdateBlock, list[int], Callable[[], Block] | None]] = []
        for block in blocks:
            added = {group: shape for group, slot in enumerate(block.slots) if (shape := shapes[slot])}
            prompts = [block.rollout.prompts[group] for group in added]
            more = self._begun(prompts, [*added.values()], (self.seed, update)) if added else None
            grown.append((block, [*added], more))
        return [
            self._scored(block.slots, joined(block.rollout, more(), groups)) if more else block
            for block, groups, more in bar(grown, "roll out", self.processes.is_main)
        ]

    def score(self, blocks: Sequence[UpdateBlock]) -> list[Group]:
        """[P]: the groups of all processes."""
        groups = dict(self.processes.gather_made(lambda: [row for block in blocks for row in _groups(block, self.rollouts)]))
        return [groups[slot] for slot in sorted(groups)]


def _asked_elsewhere() -> dict[str, np.ndarray]:
    raise AssertionError("another process of the team asks for the scores")


def scored_trees(
    rollouts: Rollouts,
    scorer: Scorer,
    rewards: Mapping[str, RewardConfig],
    prompts: Sequence[Prompt],
    shapes: Sequence[Shape],
    key: Key,
) -> tuple[list[ScoredTree], int]:
    """A group for each prompt, of the shape beside it, scored by the combined rewards; and the network evaluations of it all."""
    trees: dict[int, ScoredTree] = {}
    evaluations = 0
    for numbers in rollouts.blocks(prompts):
        block = rollouts([prompts[i] for i in numbers], [shapes[i] for i in numbers], key)
        rows = block.rewards(scorer(block.samples), on_the_way(scorer, block))
        values = {label: padded([row[label] for row in rows], np.nan) for label in rewards}
        trees |= dict(zip(numbers, _trees(block.shapes, summands(values, rewards), rewards), strict=True))
        evaluations += block.network_evaluations
    return [trees[i] for i in range(len(prompts))], evaluations


def _trees(shapes: Sequence[Shape], terms: Mapping[str, np.ndarray], rewards: Mapping[str, RewardConfig]) -> list[ScoredTree]:
    rows = zip(shapes, weighted_sum(terms, rewards), sum_rounding(terms, rewards), strict=True)
    return [ScoredTree(shape, total[: len(shape.nodes)], rounding=float(bound)) for shape, total, bound in rows]


def _groups(update_block: UpdateBlock, rollouts: Rollouts) -> list[tuple[int, Group]]:
    """[(slot, group)]"""
    block = update_block.rollout
    groups = groups_of(block, update_block.scores(), update_block.on_the_way())
    if rollouts.texts:
        groups = [replace(group, texts=row) for group, row in zip(groups, texts_of(block), strict=True)]
    if rollouts.entropies:
        groups = [replace(group, entropy=row) for group, row in zip(groups, entropies_of(block), strict=True)]
    return list(zip(update_block.slots, groups, strict=True))


def entropies_of(block: Block) -> list[np.ndarray]:
    """[N nodes] of each group: the mean entropy, in [0, 1], of what the decisions that count were drawn from; 0 where there are
    none."""
    means = [np.zeros(len(shape.nodes)) for shape in block.shapes]
    for t in block.transitions:
        assert t.prediction is not None, "what is read is kept"
        entropy_CD = t.law.entropy(t.prediction.to(t.decisions.device)[t.parent]) * t.decisions
        mean_C = (entropy_CD.sum(1) / t.decisions.sum(1).clamp(min=1.0)).cpu().numpy()
        for (group, node), mean in zip(t.places, mean_C, strict=True):
            means[group][node] += t.share * mean
    return means


def texts_of(block: Block) -> list[list[str]]:
    """What the outcomes of each group of a block say, in the order of `Shape.outcomes`."""
    said = dict(zip(leaves_of(block.shapes), block.samples.texts, strict=True))
    return [[said[group, leaf] for leaf in shape.outcomes] for group, shape in enumerate(block.shapes)]


def on_the_way(scorer: Scorer, block: Block) -> dict[str, np.ndarray]:
    """By label of the trained rewards: what they say of the states that are valued as they are."""
    return scorer(block.valued, scorer.trained) if block.valued else {}


def groups_of(block: Block, scores: Mapping[str, np.ndarray], on_the_way: Mapping[str, np.ndarray]) -> list[Group]:
    """The groups of a block, with the scores by label of all its samples, and of the states on their way."""
    log_probs = [np.full(len(shape.nodes), np.nan) for shape in block.shapes]
    decisions = [np.zeros(len(shape.nodes)) for shape in block.shapes]
    for t in block.transitions:
        columns = (t.log_prob * t.decisions).sum(1).cpu().numpy(), t.decisions.sum(1).cpu().numpy()
        for (group, node), log_prob, count in zip(t.places, *columns, strict=True):
            log_probs[group][node] = np.nan_to_num(log_probs[group][node]) + t.share * log_prob
            decisions[group][node] += t.share * count
    rows = zip(block.shapes, block.rewards(scores, on_the_way), log_probs, decisions, block.features, strict=True)
    return [Group(*row) for row in rows]
