"""Fleets of several sizes as rows, as text and in words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flowgrpo.pages.tables import markdown_table
from flowgrpo.training.fleet_size.split import NAMES, Plan, in_turn, plan_fleet
from flowgrpo.training.fleet_size.work import Assumptions, UpdateWork

TURN = "in turn"
"""All cards do everything, one thing after the other."""
HEADING = ("cards", "way", "rollout", "rewards", "trainers", "seconds an update", "updates an hour", "cards busy", "held back by")
HELPS = {
    "rollout": "more cards would help, and fewer network evaluations",
    "reward": "more cards would help, and a reward that takes less",
    "update": "more cards would help, and fewer trained steps",
    "weight sync": "an adapter (policy.lora) is less to send, and a faster link sends it sooner",
    "block transfer": "a faster link would help, and rollouts that keep fewer states",
    "granularity": "{blocks} blocks are too few for so many cards: ask more prompts an update (rollout.prompts_per_update)",
}


@dataclass(frozen=True)
class Row:
    """A number of cards and a way to use them; in turn there is no `plan`. `busy` is the share of all cards' time that works."""

    cards: int
    way: str
    seconds: float
    busy: float
    plan: Plan | None = None


def rows_of(work: UpdateWork, cards: Sequence[int], assumed: Assumptions) -> list[Row]:
    """Three ways for each number of cards: in turn, and the best fleets with lag 0 and 1; one card can only do things in turn."""
    rows = []
    for count in cards:
        seconds = in_turn(work, count, assumed)
        rows.append(Row(count, TURN, seconds, _share(work, count, seconds)))
        for lag in (0, 1) if count > 1 else ():
            plan = plan_fleet(work, count, lag, assumed)
            rows.append(Row(count, f"lag {lag}", plan.pace.seconds, _share(work, count, plan.pace.seconds), plan))
    return rows


def _share(work: UpdateWork, cards: int, seconds: float) -> float:
    return work.card_seconds / (cards * seconds) if seconds else 0.0


def text(work: UpdateWork, rows: Sequence[Row], assumed: Assumptions) -> str:
    """What a block takes, the table, what is assumed, and one sentence."""
    return "\n\n".join(
        [_of_a_block(work), markdown_table([HEADING, *map(_cells, rows)]), _assumed(assumed), sentence(work, rows)]
    )


def _of_a_block(work: UpdateWork) -> str:
    scores = ", ".join(f"{label} {seconds:.3g} s" for label, seconds in work.scoring.items())
    sizes = {"a block": work.block_bytes, "the trained weights": work.weight_bytes, "gradients": work.gradient_bytes}
    bytes_ = ", ".join(f"{name} {value / 1e6:,.1f} MB" for name, value in sizes.items())
    return (
        f"{work.count} blocks an update; one takes a card {work.rollout:.3g} s to roll out, {scores} to score, "
        f"{work.learning:.3g} s to learn\nto send: {bytes_}"
    )


def _cells(row: Row) -> list[str]:
    cells = [f"{row.cards}", row.way]
    if row.plan is None:
        kinds = ["-"] * 3
    else:
        fleet, busy = row.plan.fleet, row.plan.pace.busy
        judges = [f"{label} {_kind(cards, busy[label])}" for label, cards in fleet.rewards.items() if cards]
        kinds = [_kind(fleet.rollout, busy["rollout"]), ", ".join(judges) or "-", _kind(fleet.trainers, busy["update"])]
    last = row.plan.bottleneck if row.plan else "-"
    return [*cells, *kinds, f"{row.seconds:.4g}", f"{_an_hour(row):.4g}", f"{row.busy:.0%}", last]


def _kind(cards: int, busy: float) -> str:
    return f"{cards} ({busy:.0%})"


def _an_hour(row: Row) -> float:
    return 3600.0 / row.seconds if row.seconds else 0.0


def _assumed(assumed: Assumptions) -> str:
    said = ", ".join(f"{name}={value}" for name, value in assumed.model_dump().items() if value is not None)
    return f"assumed: {said} (--assume KEY=VALUE)"


def sentence(work: UpdateWork, rows: Sequence[Row]) -> str:
    """Of the most cards: which way is the fastest, and what would help."""
    most = max(row.cards for row in rows)
    best = min((row for row in rows if row.cards == most), key=lambda row: row.seconds)
    said = f"The fastest way to use {most} cards is {best.way}, {best.seconds:.4g} s an update"
    if best.plan is None:
        return f"{said}; no fleet of them is faster."
    helps = HELPS[best.plan.bottleneck].format(blocks=work.count)
    return f"{said}, held back by {best.plan.bottleneck}; {helps}."


def as_json(work: UpdateWork, rows: Sequence[Row], assumed: Assumptions) -> dict[str, Any]:
    return {
        "work": asdict(work),
        "assumed": assumed.model_dump(),
        "rows": [_row(row) for row in rows],
        "advice": sentence(work, rows),
    }


def _row(row: Row) -> dict[str, Any]:
    said = {
        "cards": row.cards,
        "way": row.way,
        "seconds_per_update": row.seconds,
        "updates_per_hour": _an_hour(row),
        "busy": row.busy,
    }
    if row.plan is None:
        return said
    saved = {name: row.plan.savings[name] for name in NAMES}
    fleet = {**asdict(row.plan.fleet), "busy": dict(row.plan.pace.busy)}
    return {**said, "fleet": fleet, "bottleneck": row.plan.bottleneck, "seconds_saved_without": saved}
