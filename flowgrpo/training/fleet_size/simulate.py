"""A fleet on a clock, event by event: rollouts, transfers, scores, learning, weights.

An update begins with its weights, which leave the trainer for one node after the other. Blocks are handed out in order to
whichever card is free and has the weights. A block that is done goes over the link of the trainers' nodes, one after the other,
and is scored by all labels at once, once the update before is learned. Learning begins when all blocks of the update are scored.
The next update begins then too where the lag is 1, and after learning where it is 0. A card that is lost loses its block, which
the next free card takes.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf, log1p, sqrt

import numpy as np

from flowgrpo.core.keys import numpy_generator
from flowgrpo.training.fleet_size.work import Assumptions, FleetSize, UpdateWork, learning_seconds

UPDATES, BEFORE = 14, 2
"""How many are simulated, and how many of them are over before the first that counts."""
Then = Callable[[], None]


@dataclass(frozen=True)
class Pace:
    """Seconds of an update, the mean of those that count, and the share of their time for which cards work, by kind."""

    seconds: float
    busy: Mapping[str, float]

    @property
    def updates_an_hour(self) -> float:
        return 3600.0 / self.seconds if self.seconds else inf


class Clock:
    """Runs what is due, in the order of time; what is due at one time runs in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Then]] = []
        self._order = count()

    def at(self, time: float, then: Then) -> None:
        heappush(self._due, (max(time, self.now), next(self._order), then))

    def run(self) -> None:
        while self._due:
            self.now, _, then = heappop(self._due)
            then()


class Station:
    """Work that waits for one of `places`, first come, first served."""

    def __init__(self, clock: Clock, places: int) -> None:
        self.clock, self.free = clock, places
        self.waiting: deque[tuple[float, Then]] = deque()

    def __call__(self, seconds: float, then: Then) -> None:
        self.waiting.append((seconds, then))
        self._begin()

    def _begin(self) -> None:
        while self.free and self.waiting:
            seconds, then = self.waiting.popleft()
            self.free -= 1
            self.clock.at(self.clock.now + seconds, partial(self._end, then))

    def _end(self, then: Then) -> None:
        self.free += 1
        then()
        self._begin()


@dataclass
class Cards:
    """The rollout cards: which are `idle`, and of those which are `ready`, since their node has the weights that are due."""

    size: int
    per_node: int
    idle: set[int] = field(default_factory=set)
    ready: list[int] = field(default_factory=list)
    nodes: set[int] = field(default_factory=set)

    def freed(self, card: int) -> None:
        self.idle.add(card)
        if card // self.per_node in self.nodes:
            heappush(self.ready, card)

    def weights(self, node: int) -> None:
        self.nodes.add(node)
        for card in range(node * self.per_node, min(self.size, (node + 1) * self.per_node)):
            if card in self.idle:
                heappush(self.ready, card)

    def take(self) -> int:
        card = heappop(self.ready)
        self.idle.remove(card)
        return card

    def stale(self) -> None:
        """Other weights are due from here on."""
        self.ready.clear()
        self.nodes.clear()


class Simulation:
    """`shared`: every block is shared equally by all cards of a kind, as if blocks could be divided at will."""

    def __init__(self, work: UpdateWork, fleet: FleetSize, assumed: Assumptions, updates: int, shared: bool = False) -> None:
        self.work, self.fleet, self.assumed, self.updates, self.shared = work, fleet, assumed, updates, shared
        self.clock = Clock()
        self.nodes = assumed.nodes(fleet.rollout)
        own = {label: cards for label, cards in fleet.rewards.items() if cards}
        self.pace = {label: cards if shared else 1 for label, cards in own.items()}
        self.judges = {label: Station(self.clock, 1 if shared else cards) for label, cards in own.items()}
        self.trainers = Station(self.clock, 1 if shared else fleet.trainers)
        self.held: list[int] = []
        self.link = Station(self.clock, 1)
        self.cards = Cards(1 if shared else fleet.rollout, assumed.cards_per_node)
        for card in range(self.cards.size):
            self.cards.freed(card)
        self.blocks: deque[int] = deque()
        self.update = -1
        self.scored = self.learned = 0
        self.unscored: dict[int, int] = {}
        self.left = 0
        self.seconds: list[float] = []
        self.chances: dict[int, np.random.Generator] = {}
        self.begins = [0.0]
        self.rolled = [0.0] * updates

    def run(self) -> "Simulation":
        self._hand_out()
        self.clock.run()
        return self

    def _hand_out(self) -> None:
        """The next update, with the weights that are learned."""
        self.update += 1
        work = self.work
        self.blocks.extend(range(work.count))
        self.left = work.count
        self.unscored = dict.fromkeys(range(work.count), max(1, len(work.scoring)))
        self.seconds, self.chances = self._rollout_seconds(), {}
        self.cards.stale()
        each = work.weight_bytes / self.assumed.bytes_a_second
        for node in range(1 if self.shared else self.nodes):
            before = self.nodes if self.shared else node + 1
            self.clock.at(self.clock.now + each * before, partial(self._has_weights, node, self.update))

    def _rollout_seconds(self) -> list[float]:
        """[blocks]: log-normal around the mean."""
        mean = self.work.rollout / (self.fleet.rollout if self.shared else 1)
        variance = log1p(self.assumed.spread**2)
        if not variance:
            return [mean] * self.work.count
        normal = numpy_generator(("fleet", "rollout", self.update)).standard_normal(self.work.count)
        return [float(value) for value in mean * np.exp(sqrt(variance) * normal - variance / 2)]

    def _has_weights(self, node: int, update: int) -> None:
        """Of this update; another one may be handed out by now."""
        if update == self.update:
            self.cards.weights(node)
            self._roll_out()

    def _roll_out(self) -> None:
        while self.cards.ready and self.blocks:
            card, block = self.cards.take(), self.blocks.popleft()
            seconds = self.seconds[block]
            lasts = self._lasts(block)
            self.rolled[self.update] += min(seconds, lasts)
            if lasts < seconds:
                self.clock.at(self.clock.now + lasts, partial(self._lost, card, block))
            else:
                self.clock.at(self.clock.now + seconds, partial(self._rolled_out, card, block))

    def _lasts(self, block: int) -> float:
        """Seconds until the card would be lost that takes the block now."""
        rate = self.assumed.losses_a_second * (self.fleet.rollout if self.shared else 1)
        if not rate:
            return inf
        if block not in self.chances:
            self.chances[block] = numpy_generator(("fleet", "lost", self.update, block))
        return float(self.chances[block].exponential(1.0 / rate))

    def _lost(self, card: int, block: int) -> None:
        self.blocks.appendleft(block)
        away = self.assumed.restart / (self.fleet.rollout if self.shared else 1)
        self.clock.at(self.clock.now + away, partial(self._free, card))
        self._roll_out()

    def _free(self, card: int) -> None:
        self.cards.freed(card)
        self._roll_out()

    def _rolled_out(self, card: int, block: int) -> None:
        links = self.assumed.nodes(self.fleet.trainers)
        self.link(self.work.block_bytes / (self.assumed.bytes_a_second * links), partial(self._arrived, block))
        self._free(card)

    def _arrived(self, block: int) -> None:
        if self.learned < self.update:
            self.held.append(block)
        else:
            self._score(block)

    def _score(self, block: int) -> None:
        if not self.work.scoring:
            self._scored(block)
        for label, seconds in self.work.scoring.items():
            if label in self.judges:
                self.judges[label](seconds / self.pace[label], partial(self._scored, block))
            else:
                self.trainers(seconds / (self.fleet.trainers if self.shared else 1), partial(self._scored, block))

    def _scored(self, block: int) -> None:
        self.unscored[block] -= 1
        if self.unscored[block]:
            return
        self.left -= 1
        if self.left:
            return
        self.scored += 1
        lasts = learning_seconds(self.work, self.fleet.trainers, self.assumed, self.shared)
        self.clock.at(self.clock.now + lasts, self._learned)
        if self.fleet.lag:
            self._next()

    def _learned(self) -> None:
        self.learned += 1
        held, self.held = self.held, []
        for block in held:
            self._score(block)
        self._next()

    def _next(self) -> None:
        """Begin the next update once the one before is scored, and the weights are learned that it is rolled out with."""
        due = self.update + 1
        if len(self.begins) == due and self.scored == due and self.learned >= due - self.fleet.lag:
            self.begins.append(self.clock.now)
            if due < self.updates:
                self._hand_out()


def simulate(
    work: UpdateWork,
    fleet: FleetSize,
    assumed: Assumptions,
    updates: int = UPDATES,
    before: int = BEFORE,
    shared: bool = False,
) -> Pace:
    """The pace of a fleet. Every draw has a key, so the same fleet has the same pace."""
    done = Simulation(work, fleet, assumed, updates, shared).run()
    seconds = (done.begins[updates] - done.begins[before]) / (updates - before)
    rolled = sum(done.rolled[before:]) / (updates - before) * (fleet.rollout if shared else 1)
    busy = {"rollout": rolled / fleet.rollout}
    trained = work.count * work.learning
    for label, each in work.scoring.items():
        if cards := fleet.rewards.get(label, 0):
            busy[label] = work.count * each / cards
        else:
            trained += work.count * each
    busy["update"] = trained / fleet.trainers
    return Pace(seconds, {kind: value / seconds if seconds else 0.0 for kind, value in busy.items()})
