"""What generators share: rows that differ, and a split that no seed changes."""

import json
from collections.abc import Callable
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import seed_of

Row = dict[str, Any]
SPLITS = ("test", "train")
SHARE = 10
"""One in so many contents is held out."""
PATIENCE = 20_000
"""Draws in a row that give nothing new before it is said that there is no more."""


def held_out(name: str, content: str) -> bool:
    """Whether rows with this content are of the split `test`, whatever count and seed are asked for."""
    return seed_of(("held out", name, content)) % SHARE == 0


def distinct(draw: Callable[[], Row], count: int, fits: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """Draw until so many rows differ that fit.

    Errors: UserError where there are not so many.
    """
    rows: dict[str, Row] = {}
    vain = 0
    while len(rows) < count:
        row = draw()
        text = json.dumps(row, sort_keys=True)
        vain += 1
        if text not in rows and fits(row):
            rows[text], vain = row, 0
        if vain > PATIENCE:
            raise UserError(f"there are about {len(rows)} different rows and no more; ask for fewer than {count}")
    return list(rows.values())
