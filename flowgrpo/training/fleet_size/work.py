"""What a fleet has to do in an update, and what it is made of.

Seconds are those of one card. A block is some whole groups that are rolled out together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from flowgrpo.core.section import Section

GIGA = 1e9
DAY = 86_400.0


class Assumptions(Section):
    """What no watch on one card can tell.

    `bandwidth` is that of a node's link to the others, in 1e9 bytes a second each way. `spread` is the standard deviation of the
    seconds that a block's rollout takes, over their mean. `losses` says how many rollout actors are lost for each card and day of
    work; one is back after `restart` seconds. `trainers` is the most cards that may learn together. `block_bytes` is what the
    rollout of a block sends to the trainer; null: its latents, as `flowgrpo plan` counts them. The run whose seconds these are
    had so many `processes`.
    """

    bandwidth: PositiveFloat = 12.5
    cards_per_node: PositiveInt = 8
    spread: NonNegativeFloat = 0.1
    losses: NonNegativeFloat = 0.0
    restart: NonNegativeFloat = 120.0
    trainers: PositiveInt | None = None
    block_bytes: NonNegativeFloat | None = None
    processes: PositiveInt = 1

    @property
    def bytes_a_second(self) -> float:
        return self.bandwidth * GIGA

    @property
    def losses_a_second(self) -> float:
        return self.losses / DAY

    def nodes(self, cards: int) -> int:
        return -(-cards // self.cards_per_node)


@dataclass(frozen=True)
class UpdateWork:
    """An update: `blocks` of each minibatch, which share an optimizer step, `epochs` times over.

    Seconds of a block: its `rollout`, `scoring` by label, and `learning` over all epochs. Bytes: of a block that is sent to the
    trainer, of the weights that are published, and of the gradients that trainers add up at each step.
    """

    blocks: tuple[int, ...]
    rollout: float
    scoring: Mapping[str, float] = field(default_factory=dict)
    learning: float = 0.0
    epochs: int = 1
    block_bytes: float = 0.0
    weight_bytes: float = 0.0
    gradient_bytes: float = 0.0

    @property
    def count(self) -> int:
        """Blocks of the update."""
        return sum(self.blocks)

    @property
    def card_seconds(self) -> float:
        """Of all its blocks."""
        return self.count * (self.rollout + sum(self.scoring.values()) + self.learning)


@dataclass(frozen=True)
class FleetSize:
    """Cards of each kind. A label of `rewards` without a card is scored by the `trainers`, which have at least one of every other
    kind each.

    With `lag` 0 an update is rolled out, scored, learned and published before the next begins; with 1 the next is rolled out
    while this one is learned, with the weights before it.
    """

    rollout: int
    rewards: Mapping[str, int] = field(default_factory=dict)
    trainers: int = 1
    lag: Literal[0, 1] = 0

    @property
    def cards(self) -> int:
        return self.rollout + sum(self.rewards.values()) + self.trainers

    @property
    def possible(self) -> bool:
        """Whether each trainer has its share of the others."""
        return self.trainers <= min([self.rollout, *(cards for cards in self.rewards.values() if cards)])


def exchange_seconds(cards: int, bytes_: float, bytes_a_second: float) -> float:
    """Of a ring all-reduce: each card sends and receives 2 (n - 1) / n times the bytes (Patarasuk and Yuan 2009, section 3)."""
    return 2.0 * (cards - 1) / cards * bytes_ / bytes_a_second


def learning_seconds(work: UpdateWork, cards: int, assumed: Assumptions, shared: bool = False) -> float:
    """Until all blocks of an update are learned: each card takes whole ones, or where `shared` an equal part of each."""
    rounds = sum(blocks / cards if shared else -(-blocks // cards) for blocks in work.blocks)
    steps = work.epochs * len(work.blocks)
    return rounds * work.learning + steps * exchange_seconds(cards, work.gradient_bytes, assumed.bytes_a_second)
