r"""Mathematics by exact match: is the final answer of a text the stated one?

`Maths` is `exact` with an option. Judged is the last `\boxed{...}`, else the last answer block, else the last number of the text.
Numbers are compared as exact fractions (floats at a relative 1e-9 where an irrational root is in them), all else as normalised
strings.

A row may state the answer alone, or in a worked solution as datasets do: what its last `\boxed{...}` holds (MATH), else what
stands after its last `####` (GSM8K).
"""

import math
import re
from fractions import Fraction
from functools import partial
from typing import Any

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import answer_block, bad_row, stated
from flowgrpo.rewards._tokens import Tokens, Unparsable
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars

Number = Fraction | float
MARK = "####"
LENGTH = 200
BITS = 4096
"""A power has at most so many, so no tower of exponents can hang."""
LARGEST = 1e300
ANSWER = r"the right answer as text, such as '1/2', alone or where a solution marks it (after '####', or in a \boxed{})"
NUMBER = re.compile(r"(?:(?<![\w)])-)?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?", re.ASCII)
TOKEN = re.compile(r"\d+\.?\d*|\.\d+|\\frac|\\sqrt|[+\-*/^()]", re.ASCII)
REWRITES = [
    (r"\\[dt]frac", r"\\frac"),
    (r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[ !,;:]|\\?[$%]|~|\^\\circ|\^\{\\circ\}|\s", ""),
    (r"\\(?:cdot|times)(?![A-Za-z])", "*"),
    (r"\\div(?![A-Za-z])", "/"),
    (r"\{,\}", ","),
    (r"(?<=\d),(?=\d{3}(?!\d))", ""),
    (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac(\d)\{", r"\\frac{\1}{"),
    (r"\.$", ""),
]
UNIT = re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}")


def _ladder() -> list[Samples]:
    return [exemplars([text], [{"answer": r"\frac{1}{2}"}]) for text in (r"\boxed{2}", r"so it is \boxed{0.5}")]


judged = partial(
    card,
    reads="texts",
    range=(0.0, 1.0),
    better="1: the final answer is right, 0: not",
    licence="Apache-2.0",
    source="flowgrpo",
    row='{"answer": str}',
    ladder=_ladder,
    check=lambda _, prompt: _stated(prompt.metadata),
)


@judged()
class Maths:
    r"""`require_boxed`: only a `\boxed{...}` counts."""

    def __init__(self, require_boxed: bool = False) -> None:
        self.require_boxed = require_boxed

    def __call__(self, samples: Samples) -> list[float]:
        return [self._judge(text, _stated(row)) for text, row in zip(samples.texts, samples.metadata, strict=True)]

    def _judge(self, text: str, right: str) -> float:
        answer = boxed(text) if self.require_boxed else final(text)
        return float(answer is not None and same(answer, right))


@judged()
def exact(samples: Samples) -> list[float]:
    return Maths()(samples)


def _stated(row: dict[str, Any]) -> str:
    right = stated(row, "answer", ANSWER)
    if not isinstance(right, str) or not normalise(alone := right_of(right)):
        raise bad_row(row, "answer", ANSWER)
    return alone


def right_of(solution: str) -> str:
    """The answer alone, of a solution that marks it."""
    return boxed(solution) or solution.rpartition(MARK)[2].strip()


def final(text: str) -> str | None:
    """What the text gives as its answer."""
    marked = boxed(text) or answer_block(text)
    if marked is not None:
        return marked
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, None where its braces are not balanced."""
    _, mark, rest = text.rpartition(r"\boxed{")
    depth = 1
    for i, character in enumerate(rest if mark else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:i]
    return None


def same(a: str, b: str) -> bool:
    a, b = normalise(a), normalise(b)
    x, y = value(a), value(b)
    if x is None or y is None:
        return a == b
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    return math.isclose(x, y, rel_tol=1e-9)


def normalise(text: str) -> str:
    r"""Without spaces, `$`, `\left`, units, percent and degree signs, commas of thousands and a last dot."""
    without_units = UNIT.sub("", text)
    text = without_units if without_units.strip(" $.") else UNIT.sub(r"\1", text)
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text, flags=re.ASCII)
    return text


def value(text: str) -> Number | None:
    """The number that a normalised text is, None where it is none or too large to be looked at."""
    text = text.replace("{", "(").replace("}", ")")
    tokens = TOKEN.findall(text)
    if len(text) > LENGTH or "".join(tokens) != text:
        return None
    parser = _Parser(tokens)
    try:
        number: Number = parser.sum(0)
    except (Unparsable, ZeroDivisionError, OverflowError):
        return None
    return None if parser.tokens or not -LARGEST <= number <= LARGEST else number


class _Parser(Tokens):
    """Recursive descent; `tokens` are what is left, last first."""

    def sum(self, depth: int) -> Number:
        number = self.product(depth)
        while self.sees("+", "-"):
            number = number + self.product(depth) if self.tokens.pop() == "+" else number - self.product(depth)
        return number

    def product(self, depth: int) -> Number:
        r"""Signs are optional: `2\sqrt{3}` is a product."""
        number = self.signed(depth)
        while self.sees("*", "/", "(", r"\sqrt"):
            operator = self.tokens.pop() if self.sees("*", "/") else "*"
            number = number / self.signed(depth) if operator == "/" else number * self.signed(depth)
        return number

    def signed(self, depth: int) -> Number:
        if not self.sees("-", "+"):
            return self.power(depth)
        negative = self.tokens.pop() == "-"
        number = self.signed(self.deeper(depth))
        return -number if negative else number

    def power(self, depth: int) -> Number:
        base = self.atom(depth)
        if not self.sees("^"):
            return base
        self.tokens.pop()
        return _power(base, self.signed(self.deeper(depth)))

    def atom(self, depth: int) -> Number:
        token = self.tokens.pop() if self.tokens else ""
        if token[:1].isdigit() or token[:1] == ".":
            return self.mixed(Fraction(token), depth)
        if token == r"\frac":
            above, below = self.atom(self.deeper(depth)), self.atom(self.deeper(depth))
            return above / below
        if token == r"\sqrt":
            return _root(self.atom(self.deeper(depth)))
        if token != "(":
            raise Unparsable
        return self.bracket(depth)

    def mixed(self, whole: Fraction, depth: int) -> Number:
        r"""`3\frac{1}{2}` is 3 + 1/2."""
        return whole + self.atom(self.deeper(depth)) if self.sees(r"\frac") else whole

    def bracket(self, depth: int) -> Number:
        number = self.sum(self.deeper(depth))
        self.closes()
        return number


def _power(base: Number, exponent: Number) -> Number:
    """Of whole exponents, within BITS."""
    if not isinstance(exponent, Fraction) or exponent.denominator != 1:
        raise Unparsable
    bits = 64 if isinstance(base, float) else max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > BITS:
        raise Unparsable
    return base**exponent.numerator


def _root(number: Number) -> Number:
    if number < 0:
        raise Unparsable
    if isinstance(number, Fraction):
        above, below = math.isqrt(number.numerator), math.isqrt(number.denominator)
        if above**2 == number.numerator and below**2 == number.denominator:
            return Fraction(above, below)
    return math.sqrt(number)
