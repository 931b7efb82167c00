"""Countdown: does an expression use exactly the given numbers and reach the target?

Judged is the last answer block, or all of the text.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import answer, bad_row, stated
from flowgrpo.rewards._tokens import Tokens, Unparsable
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars

LENGTH = 200


def _ladder() -> list[Samples]:
    """Other numbers; the right numbers and, except where the value does not matter, the right value."""
    row = {"numbers": [2, 3, 4], "target": 14}
    return [exemplars([text], [row]) for text in ("7 + 7", "2 + 3 * 4")]


judged = partial(
    card,
    reads="texts",
    range=(0.0, 1.0),
    licence="Apache-2.0",
    row='{"numbers": [int, ...], "target": int}',
    ladder=_ladder,
    check=lambda _, prompt: _task(prompt.metadata),
)


class Verdict(NamedTuple):
    valid: bool
    right: bool


@dataclass(frozen=True)
class Expression:
    """`value` is None where something is divided by zero."""

    numbers: tuple[int, ...]
    value: Fraction | None


@judged(better="1: right, 0.1: uses exactly the numbers, 0: neither", source="the scale of TinyZero")
def countdown(samples: Samples) -> list[float]:
    return [1.0 if verdict.right else 0.1 if verdict.valid else 0.0 for verdict in _verdicts(samples)]


@judged(better="1: right, 0: not", source="flowgrpo")
def countdown_strict(samples: Samples) -> list[float]:
    return [float(verdict.right) for verdict in _verdicts(samples)]


@judged(better="1: uses exactly the numbers, whatever the value, 0: not", source="flowgrpo")
def countdown_valid(samples: Samples) -> list[float]:
    return [float(verdict.valid) for verdict in _verdicts(samples)]


def _verdicts(samples: Samples) -> list[Verdict]:
    return [judge(text, *_task(row)) for text, row in zip(samples.texts, samples.metadata, strict=True)]


def _task(row: dict[str, Any]) -> tuple[list[int], int]:
    numbers, target = stated(row, "numbers", "a list of integers"), stated(row, "target", "an integer")
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise bad_row(row, "numbers", "a list of integers")
    if type(target) is not int:
        raise bad_row(row, "target", "an integer")
    return numbers, target


def judge(text: str, numbers: Sequence[int], target: int) -> Verdict:
    expression = parse(answer(text))
    valid = expression is not None and Counter(expression.numbers) == Counter(numbers)
    return Verdict(valid, valid and expression is not None and expression.value == target)


def parse(text: str) -> Expression | None:
    """None unless the text is an expression over + - * / ( ) and integers, of at most LENGTH characters and 40 levels."""
    if len(text) > LENGTH or not re.fullmatch(r"[0-9+\-*/()\s]+", text):
        return None
    parser = _Parser(re.findall(r"[0-9]+|[+\-*/()]", text))
    try:
        value = parser.sum(0)
    except Unparsable:
        return None
    return None if parser.tokens else Expression(tuple(parser.numbers), value)


class _Parser(Tokens):
    """Recursive descent; `tokens` are what is left, last first."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.numbers = list[int]()

    def sum(self, depth: int) -> Fraction | None:
        value = self.product(depth)
        while self.sees("+", "-"):
            value = _apply(self.tokens.pop(), value, self.product(depth))
        return value

    def product(self, depth: int) -> Fraction | None:
        value = self.signed(depth)
        while self.sees("*", "/"):
            value = _apply(self.tokens.pop(), value, self.signed(depth))
        return value

    def signed(self, depth: int) -> Fraction | None:
        if not self.sees("-"):
            return self.atom(depth)
        self.tokens.pop()
        return _apply("-", Fraction(0), self.signed(self.deeper(depth)))

    def atom(self, depth: int) -> Fraction | None:
        token = self.tokens.pop() if self.tokens else ""
        if token.isdigit():
            self.numbers.append(int(token))
            return Fraction(int(token))
        if token != "(":
            raise Unparsable
        value = self.sum(self.deeper(depth))
        self.closes()
        return value


def _apply(operator: str, a: Fraction | None, b: Fraction | None) -> Fraction | None:
    if a is None or b is None or (operator == "/" and b == 0):
        return None
    return {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[operator](b)
