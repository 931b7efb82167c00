"""Form of a text: its shape and its length."""

import re
from collections import Counter
from functools import partial
from math import log2
from typing import Literal

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars

REASONED = re.compile(r"\s*<reasoning>.*</reasoning>\s*<answer>.*</answer>\s*", re.DOTALL)
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

formed = partial(card, reads="texts", range=(0.0, 1.0), licence="Apache-2.0", source="flowgrpo")
counted = partial(card, reads="texts", range=(0.0, float("inf")), licence="Apache-2.0", source="flowgrpo")


def _ladder() -> list[Samples]:
    return [exemplars([text], [{}]) for text in ("4", "<reasoning>2 + 2</reasoning><answer>4</answer>")]


@formed(better="1: the text has the form, 0: it has not")
class Format:
    """1 when all of the text matches the regular expression `pattern`, in which a dot matches a line break too."""

    def __init__(self, pattern: str) -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise UserError(f"the format '{pattern}' is no regular expression: {error}") from error

    def __call__(self, samples: Samples) -> list[float]:
        return [float(self.pattern.fullmatch(text) is not None) for text in samples.texts]


@formed(better="1: a reasoning block and an answer block, 0: anything else", ladder=_ladder)
def xml_answer(samples: Samples) -> list[float]:
    """1 when the text is a reasoning block and an answer block, each once, in this order, and nothing else."""
    return [float(all(text.count(tag) == 1 for tag in TAGS) and bool(REASONED.fullmatch(text))) for text in samples.texts]


@formed(better="the number of words is closer to the target")
class Length:
    """max(0, 1 - |words - target| / width)."""

    def __init__(self, target: int, width: int) -> None:
        if target < 0 or width <= 0:
            raise UserError(f"a length needs a target of at least 0 and a width above 0 words, not {target} and {width}")
        self.target, self.width = target, width

    def __call__(self, samples: Samples) -> list[float]:
        return [max(0.0, 1.0 - abs(len(text.split()) - self.target) / self.width) for text in samples.texts]


@counted(better="a text that tells more; to measure with weight 0")
class Entropy:
    """Of the distribution of the words (or `of` characters) in a text, in bits: sum -p log2 p over the different ones."""

    def __init__(self, of: Literal["words", "characters"] = "words") -> None:
        if of not in ("words", "characters"):
            raise UserError(f"the entropy of a text is of 'words' or of 'characters', not of {of!r}")
        self.of = of

    def __call__(self, samples: Samples) -> list[float]:
        return [_entropy(text.split() if self.of == "words" else list(text)) for text in samples.texts]


def _entropy(parts: list[str]) -> float:
    counts = Counter(parts).values()
    return sum(count / len(parts) * log2(len(parts) / count) for count in counts)


@counted(better="a longer text; to measure with weight 0")
def characters(samples: Samples) -> list[float]:
    """How many characters a text has, without blanks around it."""
    return [float(len(text.strip())) for text in samples.texts]


@counted(better="a longer text; to measure with weight 0")
def words(samples: Samples) -> list[float]:
    """How many words a text has."""
    return [float(len(text.split())) for text in samples.texts]


@counted(better="nothing: it is the number of a form; to measure with weight 0")
class Form:
    """The number of the first of the regular expressions `patterns` that is found in the text, from 1; 0 where none is. A dot
    matches a line break too."""

    def __init__(self, patterns: list[str]) -> None:
        try:
            self.patterns = [re.compile(pattern, re.DOTALL) for pattern in patterns]
        except re.error as error:
            raise UserError(f"one of the forms {patterns} is no regular expression: {error}") from error

    def __call__(self, samples: Samples) -> list[float]:
        return [float(self._number(text)) for text in samples.texts]

    def _number(self, text: str) -> int:
        return next((number for number, pattern in enumerate(self.patterns, 1) if pattern.search(text)), 0)
