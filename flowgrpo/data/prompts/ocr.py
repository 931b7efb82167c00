"""Prompts that ask for text in a picture: ten things that carry one to four words, or a number, after Flow-GRPO's task of
rendering text (arXiv 2505.05470), as `{"prompt": ..., "text": "OPEN", "length": "1 word"}`.

Splits are by the text, and no text of the benchmark is in either.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts._rows import Row, distinct, held_out

CARRIERS = (
    'A street sign that says "{}"',
    'A shop window with the words "{}" painted on the glass',
    'A coffee mug with "{}" printed on it',
    'A birthday cake with "{}" written in icing',
    'A neon sign that glows "{}" at night',
    'A T-shirt with "{}" in bold letters',
    'A chalkboard in a classroom that reads "{}"',
    'The cover of an old book with the title "{}"',
    'A billboard beside a road that reads "{}"',
    'A wooden signpost in a forest with "{}" carved into it',
)
WORDS = (
    *("OPEN", "COFFEE", "GARDEN", "WINTER", "MARKET", "SILVER", "RIVER", "HAPPY", "NORTH", "LIGHT", "BREAD", "QUIET", "SUMMER"),
    *("TICKET", "ISLAND", "MUSIC", "DANGER", "CASTLE", "ORANGE", "FRESH", "FLOWER", "WELCOME", "STATION", "LIBRARY", "TODAY"),
    *("PLANET", "FUTURE", "SLOW", "DREAM", "HARBOR", "YELLOW", "PEOPLE", "FREE", "WATER", "NEVER", "FOREST", "MIDNIGHT"),
)
"""Of the benchmark."""
MORE = (
    *("CLOSED", "BAKERY", "SPRING", "AUTUMN", "SCHOOL", "BRIDGE", "TRAIN", "HOTEL", "POLICE", "DOCTOR", "PHARMACY", "CINEMA"),
    *("THEATER", "MUSEUM", "BOOKS", "TEA", "PIZZA", "FISH", "CHEESE", "APPLES", "HONEY", "SALE", "EXIT", "ENTRANCE", "PARKING"),
    *("CAUTION", "STOP", "BEACH", "OCEAN", "MOUNTAIN", "VALLEY", "SUNRISE", "SUNSET", "STARS", "MOON", "WINDOW", "DOOR", "SOUTH"),
    *("EAST", "WEST", "GOLDEN", "PURPLE", "GREEN", "BLUE", "WHITE", "FAST", "BRAVE", "GENTLE", "LUCKY", "HUNGRY", "ANCIENT"),
    *("MODERN", "SECRET", "ALWAYS", "TOMORROW", "WEEKEND", "HOLIDAY", "BIRTHDAY", "FRIENDS", "FAMILY", "CITY", "VILLAGE"),
    *("ROCKET", "ROBOT", "DRAGON", "TIGER", "EAGLE", "WHALE", "RABBIT", "GUITAR", "PIANO", "DANCE", "PAINT", "PAPER", "LETTER"),
)
NUMBER, NUMBERS = "number", (10, 10_000)
LENGTHS = {"1 word": 1, "2 words": 2, "3 words": 3, "4 words": 4}
KINDS = (*LENGTHS, NUMBER)
EACH = 64


def rows(split: str = "train", count: int = 2000, seed: int = 0) -> list[Row]:
    rng, taken = numpy_generator(("ocr", split, seed)), _taken()

    def fits(row: Row) -> bool:
        return row["text"] not in taken and held_out("ocr", row["text"]) == (split == "test")

    return distinct(lambda: _drawn(rng, KINDS[rng.integers(len(KINDS))], (*WORDS, *MORE)), count, fits)


def benchmark() -> list[Row]:
    """Always the same."""
    return [row for kind in KINDS for row in _of_kind(kind)]


@cache
def _taken() -> frozenset[str]:
    return frozenset(row["text"] for row in benchmark())


def _of_kind(kind: str) -> Iterator[Row]:
    rng = numpy_generator(("ocr", kind))
    yield from distinct(lambda: _drawn(rng, kind, WORDS), EACH)


def _drawn(rng: np.random.Generator, kind: str, words: tuple[str, ...]) -> Row:
    if kind == NUMBER:
        text = str(rng.integers(*NUMBERS))
    else:
        text = " ".join(words[i] for i in rng.choice(len(words), LENGTHS[kind], replace=False))
    return {"prompt": CARRIERS[int(rng.integers(len(CARRIERS)))].format(text), "text": text, "length": kind}
