"""What the benchmarks of mathematics share: an official JSONL, a chat instruction, exact answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgrpo.config import RewardConfig
from flowgrpo.errors import UserError
from flowgrpo.eval._official import official, read

METRIC = "accuracy"
REWARDS = {METRIC: RewardConfig(use="maths:exact")}
INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."


def instruction(question: str) -> str:
    return f"{question.strip()}\n\n{INSTRUCTION}"


def rows_of(path: Path | None, keys: Sequence[str], count: int, hint: str) -> list[dict[str, Any]]:
    """The objects of a JSONL, which must all have these keys."""
    file = official(path, count, None, hint)
    return [_row(line, keys, file, number) for number, line in enumerate(read(file).splitlines(), 1) if line.strip()]


def _row(line: str, keys: Sequence[str], file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {number}: not valid JSON ({error}); get the official file anew") from error
    if not isinstance(row, dict) or not all(key in row for key in keys):
        raise UserError(f"{file}, line {number}: must be an object with {', '.join(keys)}; get the official file anew")
    return row
