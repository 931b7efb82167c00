"""How to share cards out, and what holds a fleet back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Literal

from flowgrpo.core.errors import UserError
from flowgrpo.training.fleet_size.simulate import Pace, simulate
from flowgrpo.training.fleet_size.work import Assumptions, FleetSize, UpdateWork, learning_seconds

SHORT = (4, 2)
"""Updates that are simulated to compare splits, and those before the first that counts: all blocks take equally long there."""
CLOSE = 0.01
"""A share of an update's seconds that is not worth a card."""
NAMES = ("rollout", "reward", "update", "weight sync", "block transfer", "granularity")


@dataclass(frozen=True)
class Plan:
    """A fleet, its pace, and the seconds that an update would save without each of NAMES."""

    fleet: FleetSize
    pace: Pace
    savings: Mapping[str, float]

    @property
    def bottleneck(self) -> str:
        """What would save most; where none alone would save anything to speak of, the kind of cards that works most."""
        largest = max(self.savings, key=self.savings.__getitem__)
        if self.savings[largest] > CLOSE * self.pace.seconds:
            return largest
        busiest = max(self.pace.busy, key=self.pace.busy.__getitem__)
        return busiest if busiest in NAMES else "reward"


def plan_fleet(work: UpdateWork, cards: int, lag: Literal[0, 1], assumed: Assumptions) -> Plan:
    """The best fleet of at most so many cards. Errors: UserError for a single card."""
    fleet = best_split(work, cards, lag, assumed)
    return Plan(fleet, simulate(work, fleet, assumed), savings(work, fleet, assumed, cards))


def in_turn(work: UpdateWork, cards: int, assumed: Assumptions) -> float:
    """Seconds of an update if every card does everything in turn, as torchrun starts it. Blocks are equally long; card i has the
    blocks i, i + n, ... of the update."""
    own = -(-work.count // cards)
    return own * (work.rollout + sum(work.scoring.values())) + learning_seconds(work, cards, assumed)


def savings(work: UpdateWork, fleet: FleetSize, assumed: Assumptions, cards: int) -> dict[str, float]:
    """By NAMES: how much sooner an update would be over, all else the same, if that took no time.

    Granularity is what whole blocks cost: how much sooner it would be over if the cards of a kind shared every block equally, and
    cards that the fleet leaves idle were added to each kind in proportion. The others are compared with that fleet, so that no
    second counts twice.
    """
    large = _grown(fleet, cards, assumed.trainers or cards)
    free = {
        "rollout": replace(work, rollout=0.0),
        "reward": replace(work, scoring={}),
        "update": replace(work, learning=0.0, gradient_bytes=0.0),
        "weight sync": replace(work, weight_bytes=0.0),
        "block transfer": replace(work, block_bytes=0.0),
    }
    whole, shared = simulate(work, fleet, assumed).seconds, simulate(work, large, assumed, shared=True).seconds
    saved = {name: shared - simulate(less, large, assumed, shared=True).seconds for name, less in free.items()}
    return {name: max(0.0, {**saved, "granularity": whole - shared}[name]) for name in NAMES}


def best_split(work: UpdateWork, cards: int, lag: Literal[0, 1], assumed: Assumptions) -> FleetSize:
    """The fastest fleet of at most so many cards, or a smaller one that is nearly as fast; compared without spread and losses."""
    if cards < 2:
        raise UserError("a fleet has a card that rolls out and another that trains; take 2 cards or more")
    even = assumed.model_copy(update={"spread": 0.0, "losses": 0.0})

    known: dict[str, float] = {}

    def seconds(fleet: FleetSize) -> float:
        if repr(fleet) not in known:
            known[repr(fleet)] = simulate(work, fleet, even, *SHORT).seconds
        return known[repr(fleet)]

    bounded = sorted(
        ((least_seconds(work, fleet, even), fleet) for fleet in splits(work, cards, lag, assumed)),
        key=lambda pair: (pair[0], pair[1].cards),
    )
    best, fastest = bounded[0][1], seconds(bounded[0][1])
    for least, fleet in bounded[1:]:
        if least >= fastest:
            break
        if (takes := seconds(fleet)) < fastest:
            best, fastest = fleet, takes

    best = _improved(best, cards, assumed.trainers or cards, seconds)
    fastest = seconds(best)
    for kind in (*best.rewards, "rollout", "update"):
        best = _trimmed(best, kind, lambda fleet: seconds(fleet) <= fastest * (1.0 + CLOSE))
    return best


def splits(work: UpdateWork, cards: int, lag: Literal[0, 1], assumed: Assumptions) -> Iterator[FleetSize]:
    """Those worth a look: of all numbers of cards that roll out, or that learn, in as many rounds of blocks the smallest."""
    learning = {n for blocks in work.blocks for n in fewest_for_rounds(blocks)}
    for trainers in sorted(n for n in learning if n <= min(cards // 2, assumed.trainers or cards)):
        for rollout in sorted({trainers, *(n for n in fewest_for_rounds(work.count) if n > trainers)}):
            if (left := cards - trainers - rollout) >= 0:
                yield from (FleetSize(rollout, judges, trainers, lag) for judges in _judges(work, left, trainers))


@cache
def fewest_for_rounds(blocks: int) -> list[int]:
    """For 1, 2 ... rounds the fewest cards that are through with the blocks in them."""
    return sorted({-(-blocks // rounds) for rounds in range(1, blocks + 1)})


def least_seconds(work: UpdateWork, fleet: FleetSize, assumed: Assumptions) -> float:
    """An update takes at least so long if blocks are equally long and no card is lost."""
    blocks, learning = work.count, learning_seconds(work, fleet.trainers, assumed)
    rolled = -(-blocks // fleet.rollout) * work.rollout + max(work.scoring.values(), default=0.0)
    own = {label: fleet.rewards.get(label, 0) for label in work.scoring}
    judged = [-(-blocks // cards) * work.scoring[label] for label, cards in own.items() if cards]
    beside = blocks * sum(work.scoring[label] for label, cards in own.items() if not cards) / fleet.trainers
    scoring = max([*judged, beside])
    return max(rolled, learning + scoring) if fleet.lag else max(rolled, work.rollout + scoring) + learning


def _judges(work: UpdateWork, cards: int, least: int) -> Iterator[dict[str, int]]:
    """For each choice of labels that have cards of their own, at `least` so many: the slowest of them is as fast as can be."""
    labels = [label for label, seconds in work.scoring.items() if seconds]
    for own in (chosen for size in range(min(len(labels), cards // least) + 1) for chosen in combinations(labels, size)):
        shares = dict.fromkeys(work.scoring, 0) | dict.fromkeys(own, least)
        while own:
            slowest = max(own, key=lambda label: -(-work.count // shares[label]) * work.scoring[label])
            more = next((n for n in fewest_for_rounds(work.count) if n > shares[slowest]), None)
            if more is None or sum(shares.values()) - shares[slowest] + more > cards:
                break
            shares[slowest] = more
        yield shares


def _improved(best: FleetSize, cards: int, most: int, seconds: Callable[[FleetSize], float]) -> FleetSize:
    """With cards moved one by one, from one kind to another or from those that are idle, as long as it helps."""
    fastest = seconds(best)
    while True:
        moved = [fleet for fleet in _moves(best) if fleet.cards <= cards and fleet.trainers <= most and fleet.possible]
        quickest, nearby = min(((seconds(fleet), i) for i, fleet in enumerate(moved)), default=(fastest, 0))
        if quickest > fastest * (1.0 - CLOSE) or not moved:
            return best
        best, fastest = moved[nearby], quickest


def _moves(fleet: FleetSize) -> Iterator[FleetSize]:
    counts = {kind: _count(fleet, kind) for kind in (*fleet.rewards, "rollout", "update")}
    for to in counts:
        larger = _sized(fleet, to, counts[to] + 1)
        yield larger
        for away in counts:
            if away != to and counts[away] > (0 if away in fleet.rewards else 1):
                yield _sized(larger, away, counts[away] - 1)


def _grown(fleet: FleetSize, cards: int, most: int) -> FleetSize:
    """Of so many cards, in the same proportions, and at `most` so many trainers."""
    factor = max(1.0, cards / fleet.cards)
    rewards = {label: int(own * factor) for label, own in fleet.rewards.items()}
    return replace(fleet, rollout=int(fleet.rollout * factor), rewards=rewards, trainers=min(most, int(fleet.trainers * factor)))


def _count(fleet: FleetSize, kind: str) -> int:
    return {**fleet.rewards, "rollout": fleet.rollout, "update": fleet.trainers}[kind]


def _sized(fleet: FleetSize, kind: str, cards: int) -> FleetSize:
    if kind in fleet.rewards:
        return replace(fleet, rewards={**fleet.rewards, kind: cards})
    return replace(fleet, rollout=cards) if kind == "rollout" else replace(fleet, trainers=cards)


def _trimmed(fleet: FleetSize, kind: str, as_fast: Callable[[FleetSize], bool]) -> FleetSize:
    """With the fewest cards of this kind that are as fast."""
    least, most = 1 if kind == "update" else min(fleet.trainers, _count(fleet, kind)), _count(fleet, kind)
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if as_fast(_sized(fleet, kind, middle)) else (middle + 1, most)
    return _sized(fleet, kind, most)
