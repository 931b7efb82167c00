"""Blocks whose groups grow: more samples of the same prompts join those that are there."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from flowgrpo.data.samples import Samples
from flowgrpo.training.rollout import Block, leaves_of


def joined(block: Block, more: Block, groups: Sequence[int]) -> Block:
    """The block, with the samples of the groups of `more` behind those of its own `groups`, one each. No state of either is
    valued on its way."""
    shapes, first = list(block.shapes), [len(block.shapes[group].nodes) for group in groups]
    for group, shape in zip(groups, more.shapes, strict=True):
        shapes[group] = shapes[group].beside(shape)

    def moved(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(groups[g], first[g] + node) for g, node in places]

    places = [*leaves_of(block.shapes), *moved(leaves_of(more.shapes))]
    order = sorted(range(len(places)), key=places.__getitem__)
    return replace(
        block,
        shapes=shapes,
        samples=Samples.concatenate([block.samples, more.samples]).take(order),
        finals=torch.cat([block.finals, more.finals])[order],
        transitions=[*block.transitions, *(replace(t, places=moved(t.places)) for t in more.transitions)],
        network_evaluations=block.network_evaluations + more.network_evaluations,
    )
