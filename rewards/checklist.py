"""A prompt row's questions, of categories and in dependence on each other, answered by a vision-language model.

`Share` and `Count` are constructed like `vlm:Questions`. Those with the same judge share its answers about the same samples, so
that no question is asked twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import bad_row, stated
from flowgrpo.rewards.vlm import Questions, questions_of
from flowgrpo.scoring.card import card

PARENTS = "for each question the places of those it depends on, counted from 0"
CATEGORIES = "for each question the name of its category"

judged = partial(card, reads="images", licence="Apache-2.0, and the served model's")


@dataclass(kw_only=True, eq=False)
class _Checklist(Questions):
    def answers(self, samples: Samples) -> list[list[float]]:
        settings = tuple((field.name, vars(self)[field.name]) for field in fields(Questions))
        return _answers(settings, samples)


@lru_cache(maxsize=1)
def _answers(settings: tuple[tuple[str, Any], ...], samples: Samples) -> list[list[float]]:
    return Questions(**dict(settings)).answers(samples)


@judged(
    range=(0.0, 1.0),
    better="more of the row's questions are answered yes, and so are those they depend on",
    source="Davidsonian Scene Graph, arXiv 2310.18235; DPG-Bench in ELLA, arXiv 2403.05135",
    row='{"questions": ["Is there a cat?", "Is the cat black?"], "parents": [[], [0]]}, parents may be missing',
    check=lambda _, prompt: _parents(prompt.metadata, len(questions_of(prompt.metadata))),
)
@dataclass(kw_only=True, eq=False)
class Share(_Checklist):
    """The share of questions that hold: answered yes, with parents that hold."""

    def __call__(self, samples: Samples) -> list[float]:
        rows = zip(self.answers(samples), samples.metadata, strict=True)
        held = [holding(answers, _parents(row, len(answers))) for answers, row in rows]
        return [sum(answers) / len(answers) for answers in held]


@judged(
    range=(0.0, float("inf")),
    better="more of the row's questions of the category are answered yes",
    source="flowgrpo",
    row='{"questions": ["Is there a cat?", "Is the cat black?"], "categories": ["entity", "attribute"]}',
    check=lambda _, prompt: _categories(prompt.metadata, len(questions_of(prompt.metadata))),
)
@dataclass(kw_only=True, eq=False)
class Count(_Checklist):
    """How many questions of `category` are answered yes; 0 where a row has none of it."""

    category: str

    def __call__(self, samples: Samples) -> list[float]:
        rows = zip(self.answers(samples), samples.metadata, strict=True)
        return [self._count(answers, _categories(row, len(answers))) for answers, row in rows]

    def _count(self, answers: Sequence[float], categories: Sequence[str]) -> float:
        return sum(answer for answer, category in zip(answers, categories, strict=True) if category == self.category)


def holding(answers: Sequence[float], parents: Sequence[Sequence[int]]) -> list[float]:
    """Each answer, or 0 where that of a parent is. In order, so what fails takes along whatever comes later and depends on it."""
    held = list(answers)
    for place, above in enumerate(parents):
        if not all(held[parent] for parent in above):
            held[place] = 0.0
    return held


def _parents(row: dict[str, Any], count: int) -> list[list[int]]:
    parents = row.get("parents", [[]] * count)
    if not isinstance(parents, list) or len(parents) != count or not all(_places(above, count) for above in parents):
        raise bad_row(row, "parents", PARENTS)
    return parents


def _places(above: Any, count: int) -> bool:
    return isinstance(above, list) and all(type(place) is int and 0 <= place < count for place in above)


def _categories(row: dict[str, Any], count: int) -> list[str]:
    categories = stated(row, "categories", CATEGORIES)
    if not isinstance(categories, list) or len(categories) != count:
        raise bad_row(row, "categories", CATEGORIES)
    return categories
