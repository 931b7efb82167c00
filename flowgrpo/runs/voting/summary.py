"""The result of a vote as text and as JSON."""

import json
from dataclasses import asdict

from flowgrpo.pages.tables import markdown_table
from flowgrpo.runs.voting.result import Duel, Result, Strength
from flowgrpo.runs.voting.votes import Votes


def as_json(result: Result, votes: Votes) -> str:
    duels = [{**asdict(duel), "votes": duel.votes, "rate": duel.rate, "ci95": duel.ci95} for duel in result.duels]
    return json.dumps({"file": str(votes.file), **asdict(result), "duels": duels, "alike": votes.ballot.alike})


def as_text(result: Result, votes: Votes) -> str:
    """Sentences and tables, as Markdown."""
    parts = [_counts(result, votes)]
    if result.duels:
        head = ["candidate", "against", "won", "tied", "lost", "win rate", "95 % interval"]
        parts.append(markdown_table([head, *map(_row, result.duels)]))
        parts.append("A tie is half a win for both; intervals are Wilson's.")
    if result.strengths:
        rows = [[s.candidate, *_strength(s)] for s in result.strengths]
        parts.append(markdown_table([["candidate", "Bradley-Terry", "95 % interval"], *rows]))
        parts.append(f"The log-odds of winning against {votes.ballot.candidates[0]}.")
    return "\n\n".join(parts)


def _row(duel: Duel) -> list[str]:
    low, high = duel.ci95
    counts = [str(count) for count in (duel.wins, duel.ties, duel.losses)]
    return [duel.one, duel.other, *counts, f"{duel.rate:.1%}", f"{low:.1%} to {high:.1%}"]


def _strength(found: Strength) -> tuple[str, str]:
    """The first candidate is what the others are measured against."""
    low, high = found.ci95
    return (f"{found.strength:+.2f}", f"{low:+.2f} to {high:+.2f}") if low < high else ("0", "")


def _counts(result: Result, votes: Votes) -> str:
    sentences = [f"{len(votes.standing)} of {len(votes.ballot.pairs)} pairs in {votes.file}"]
    sentences += [f"{result.skipped} could not be said"] if result.skipped else []
    sentences += [f"{votes.ballot.alike} more are the same on both sides and are not asked"] if votes.ballot.alike else []
    sentences += [f"{votes.strange} votes are of other samples and don't count"] if votes.strange else []
    return "; ".join(sentences) + "."
