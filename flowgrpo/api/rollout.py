"""A rollout as an object to look at and to compute with. P prompts, G samples each, N nodes of a tree, C transitions."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowgrpo.api.load import LoadedPolicy
from flowgrpo.config.sections import RewardConfig, RolloutConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.data.prompts import prompts_of as rows_of
from flowgrpo.data.samples import Samples
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.credit import Credit
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.objective.transform import Transform
from flowgrpo.pages.page import Page
from flowgrpo.runs.tree_drawing import draw_tree
from flowgrpo.sampling.plans import Plan
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.collect import Rollouts, groups_of, texts_of
from flowgrpo.training.rollout import Block, Transitions
from flowgrpo.training.scored import Assessment, Group, Scored
from flowgrpo.training.tree import drawable

Prompts = str | Sequence[str | Prompt]


@dataclass(frozen=True)
class Tree:
    """The groups of P prompts, each of one of the `shapes`, in blocks that went through the model together."""

    prompts: list[Prompt]
    shapes: list[Shape]
    blocks: list[Block]
    rows: list[list[int]]
    """Of each block, the numbers of its prompts."""

    @cached_property
    def samples(self) -> Samples:
        """All leaves, group by group in the order of the prompts, of a group in the order of `Shape.leaves`."""
        return self._in_order([block.samples for block in self.blocks], self._leaves)

    @cached_property
    def on_the_way(self) -> Samples | None:
        """The states that completion `latents` values as they are, to be scored like samples: group by group in the order of the
        prompts, of a group in the order of `Shape.scored`. None where there are none."""
        some = [block.valued for block in self.blocks if block.valued]
        return self._in_order(some, self._scored) if some else None

    def _in_order(self, parts: Sequence[Samples], counts: Sequence[int]) -> Samples:
        rolled_out = [place for rows in self.rows for place in _places(rows, counts)]
        return Samples.concatenate(parts).take(np.argsort(rolled_out).tolist())

    @property
    def _leaves(self) -> list[int]:
        return [len(shape.leaves) for shape in self.shapes]

    @property
    def _scored(self) -> list[int]:
        return [len(shape.scored) for shape in self.shapes]

    @property
    def network_evaluations(self) -> int:
        return sum(block.network_evaluations for block in self.blocks)

    def assess(
        self,
        rewards: Mapping[str, np.ndarray],
        credit: Credit | None = None,
        advantage: AdvantageConfig | None = None,
        weights: Mapping[str, float] | None = None,
        on_the_way: Mapping[str, np.ndarray] | None = None,
        transforms: Sequence[Transform] = (),
    ) -> Scored:
        """Advantages [P, N], and what else the trainer makes of the rewards by label of the `samples`, and of the states
        `on_the_way` where there are any; weights are 1 where not given. `transforms` change the sum of the rewards before credit.
        A baseline that remembers prompts has not seen these.

        Errors: UserError for rewards of another length, none of the states on their way, or a credit rule that does not fit.
        """
        weighted = {label: RewardConfig(use=label, weight=(weights or {}).get(label, 1.0)) for label in rewards}
        trained = [label for label, reward in weighted.items() if reward.weight] if self.on_the_way else []
        passing = on_the_way or {}
        if missing := [label for label in trained if label not in passing]:
            raise UserError(
                f"'{missing[0]}' has no rewards of the states on their way; pass on_the_way, the scores of tree.on_the_way"
            )
        if unknown := [label for label in passing if label not in rewards]:
            raise UserError(f"'{unknown[0]}' has rewards of the states on their way, and none of the samples")
        _require_all(rewards, sum(self._leaves), "samples")
        _require_all(passing, sum(self._scored), "states on their way")
        rule = credit or Terminal()
        complaints = (*map(rule.complaint, self.shapes), *(transform.complaint([*rewards]) for transform in transforms))
        if complaint := next(filter(None, complaints), None):
            raise UserError(complaint)
        how = advantage or AdvantageConfig()
        reads = any(modifier.reads_texts for modifier in how.modifiers)
        groups: dict[int, Group] = {}
        for rows, block in zip(self.rows, self.blocks, strict=True):
            scores = _taken(rewards, _places(rows, self._leaves))
            made = groups_of(block, scores, _taken(passing, _places(rows, self._scored)))
            texts = texts_of(block) if reads else [()] * len(made)
            groups |= {row: replace(group, texts=said) for row, group, said in zip(rows, made, texts, strict=True)}
        assess = Assessment(weighted, rule, how, (), seed=0, transforms=transforms)
        return assess(self.prompts, [groups[row] for row in range(len(self.prompts))], update=0)

    def batches(self, scored: Scored) -> Iterator[tuple[Transitions, Tensor]]:
        """The transitions [C] of each network evaluation, and their advantages [C, 1]; 0 for those that are not trained."""
        advantage = np.where(scored.in_loss, scored.advantage, 0.0)
        for rows, block in zip(self.rows, self.blocks, strict=True):
            for t in block.transitions:
                values = [advantage[rows[group], node] for group, node in t.places]
                yield t, torch.tensor(values, device=t.log_prob.device).float()[:, None]

    def plot(self, scored: Scored | None = None, group: int = 0) -> Page:
        """A group from noise to samples; with what `assess` said, its rewards and advantages too."""
        if group not in range(len(self.prompts)):
            raise UserError(f"there is no group {group}; the tree has {len(self.prompts)}, counted from 0")
        number, rows = next((i, rows) for i, rows in enumerate(self.rows) if group in rows)
        with tempfile.TemporaryDirectory() as folder:
            tree = drawable(Path(folder), self.blocks[number], rows.index(group), scored, group)
            return Page("a rollout", draw_tree(Path(folder), tree, f"Group {group} of {len(self.prompts)}"))

    def _repr_html_(self) -> str:
        return self.plot()._repr_html_()


def _places(rows: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Of groups with so many members each, one after the other, the numbers of those of some."""
    ends = np.cumsum(counts).tolist()
    return [place for row in rows for place in range(ends[row] - counts[row], ends[row])]


def _taken(rewards: Mapping[str, np.ndarray], places: Sequence[int]) -> dict[str, np.ndarray]:
    return {label: np.asarray(values, np.float64)[places] for label, values in rewards.items()}


def _require_all(rewards: Mapping[str, np.ndarray], count: int, what: str) -> None:
    for label, values in rewards.items():
        if len(values) != count:
            raise UserError(f"'{label}' has {len(values)} rewards, and the tree has {count} {what}")


def rollout(
    policy: LoadedPolicy,
    prompts: Prompts,
    plan: Plan | str | None = None,
    *,
    group_size: int = 8,
    seed: int = 0,
    update: int = 0,
    micro_batch: int = 64,
) -> Tree:
    """G = `group_size` samples for each prompt, as training makes them in this update of a run with this seed.

    `prompts` are texts, rows of `load_prompts`, or the name of a file or generator. `plan` says which steps are stochastic and
    where trees fork (all steps, where it is left out). At most `micro_batch` states go through the network at once. Errors:
    UserError for a plan that does not fit the policy.

    >>> from flowgrpo.api.load import load_policy
    >>> tree = rollout(load_policy("mini"), ["a red circle"] * 2, group_size=4)
    >>> len(tree.samples), tree.network_evaluations
    (8, 24)
    """
    rows = prompts_of(prompts)
    settings = {"prompts": "passed in", "prompts_per_update": len(rows), "group_size": group_size, "micro_batch": micro_batch}
    config = checked(RolloutConfig, {**settings, "plan": plan or AllSteps()}, "rollout")
    steps = policy.config.steps
    if complaint := config.complaint(steps):
        raise UserError(complaint)
    shapes = config.shapes(steps, update, (seed, "plan", update), dict.fromkeys((row.index for row in rows), group_size))
    if shapes[0].watched:
        raise UserError("completion 'learned' learns from the updates of a run: use it in a config, or `fg.train`")
    if refusal := policy.config.refusal(shapes[0]):
        raise UserError(refusal)
    rollouts = Rollouts(policy, config, policy.config.batch_key)
    numbers = rollouts.blocks(rows)
    blocks = [rollouts([rows[i] for i in block], [shapes[i] for i in block], (seed, update)) for block in numbers]
    return Tree(rows, shapes, blocks, numbers)


def prompts_of(prompts: Prompts) -> list[Prompt]:
    """Texts, numbered from 0; rows as they are; or what a source holds."""
    if isinstance(prompts, str):
        return load_prompts(prompts)
    texts = rows_of([{"prompt": row} for row in prompts if not isinstance(row, Prompt)], "prompts", Path())
    rows = [row for row in prompts if isinstance(row, Prompt)]
    if rows and texts:
        raise UserError("prompts are texts, which are numbered from 0, or rows of load_prompts, not both")
    rows = rows or texts
    if not rows:
        raise UserError("there is no prompt; pass at least one text")
    if len({row.index for row in rows}) < len(rows):
        raise UserError("two prompts have the same index, and so the same noise; take each row of a source once")
    return rows
