"""What votes say: win rates, and Bradley-Terry strengths of more than two. K candidates; a tie is half a win for both."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from flowgrpo.core.intervals import Interval
from flowgrpo.runs.voting.votes import Votes

Z = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Duel:
    """What `one` won, and did not, against `other`."""

    one: str
    other: str
    wins: int
    ties: int
    losses: int

    @property
    def votes(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def rate(self) -> float:
        return (self.wins + self.ties / 2) / self.votes

    @property
    def ci95(self) -> Interval:
        return wilson(self.wins + self.ties / 2, self.votes)


@dataclass(frozen=True)
class Strength:
    """Bradley-Terry: the log-odds of winning against the first candidate, which has 0."""

    candidate: str
    strength: float
    ci95: Interval


@dataclass(frozen=True)
class Result:
    """`duels` are those that were voted on; `strengths`, of more than two candidates, the strongest first."""

    duels: tuple[Duel, ...]
    strengths: tuple[Strength, ...]
    skipped: int
    left: int


def result(votes: Votes) -> Result:
    candidates = votes.ballot.candidates
    wins = np.zeros((len(candidates), len(candidates)), int)
    ties = np.zeros_like(wins)
    for id, choice in votes.standing.items():
        pair = votes.ballot.by_id[id]
        left, right = candidates.index(pair.left), candidates.index(pair.right)
        if choice == "tie":
            ties[[left, right], [right, left]] += 1
        elif choice != "skip":
            wins[(left, right) if choice == "left" else (right, left)] += 1
    return Result(
        duels=_duels(candidates, wins, ties),
        strengths=bradley_terry(candidates, wins + ties / 2) if len(candidates) > 2 and (wins + ties).any() else (),
        skipped=sum(choice == "skip" for choice in votes.standing.values()),
        left=len(votes.ballot.pairs) - len(votes.standing),
    )


def _duels(candidates: Sequence[str], wins: np.ndarray, ties: np.ndarray) -> tuple[Duel, ...]:
    """The trained against the untrained, which comes first, and the later against the earlier."""
    return tuple(
        Duel(candidates[j], candidates[i], int(wins[j, i]), int(ties[j, i]), int(wins[i, j]))
        for i in range(len(candidates))
        for j in range(i + 1, len(candidates))
        if wins[i, j] + wins[j, i] + ties[i, j]
    )


def wilson(wins: float, votes: int) -> Interval:
    """95 % score interval of a share (Wilson, 1927). Ties count as half a win, which makes it a little wider than need be."""
    share, spread = wins / votes, Z**2 / votes
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def bradley_terry(candidates: Sequence[str], wins: np.ndarray) -> tuple[Strength, ...]:
    """Maximum likelihood of P(i beats j) = sigmoid(s_i - s_j) (Bradley and Terry, 1952); wins [K, K] of i against j.

    As if all two had tied once more, so that one which always wins has a finite strength; of two candidates this is the log-odds
    ratio of Haldane and Anscombe. The intervals are those of the inverse information.
    """
    won = wins + 0.5 * (1 - np.eye(len(wins)))
    played = won + won.T

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        gaps = np.subtract.outer(*[np.append(0.0, free)] * 2)
        slope = played * special.expit(gaps) - won
        return -float((won * special.log_expit(gaps)).sum()), slope.sum(1)[1:]

    free = optimize.minimize(loss, np.zeros(len(wins) - 1), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    strengths = np.append(0.0, free)
    chance = special.expit(np.subtract.outer(strengths, strengths))
    information = -played * chance * (1 - chance)
    np.fill_diagonal(information, 0.0)
    np.fill_diagonal(information, -information.sum(1))
    errors = np.append(0.0, np.sqrt(np.diag(np.linalg.inv(information[1:, 1:]))))
    found = [
        Strength(name, float(s), (float(s - Z * e), float(s + Z * e)))
        for name, s, e in zip(candidates, strengths, errors, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: -one.strength))
