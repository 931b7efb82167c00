"""What the benchmarks of mathematics share: an official JSONL, a chat instruction, exact answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgrpo.config.run import RewardConfig
from flowgrpo.eval._official import json_lines, official

METRIC = "accuracy"
REWARDS = {METRIC: RewardConfig(use="maths:exact")}
INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."


def instruction(question: str) -> str:
    return f"{question.strip()}\n\n{INSTRUCTION}"


def rows_of(path: Path | None, keys: Sequence[str], count: int, hint: str) -> list[dict[str, Any]]:
    """The objects of a JSONL, which must all have these keys."""
    return json_lines(official(path, count, None, hint), keys)
