"""Prompts of GenEval's grammar (arXiv 2310.11513): objects, their numbers, colours and places, as rows in the official form.

A row with its objects the other way round is of the same split, and none of the benchmark's prompts is in either. The task types
are mixed as Flow-GRPO mixes them (arXiv 2505.05470): 7 places, 5 numbers, 3 pairs of colours, 1 colour and 1 pair of objects,
until a type has no more rows: there are about 140 prompts of numbers, and 600 of one colour.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts._rows import Row, distinct, held_out

COUNTS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
"""Of the benchmark."""
MIX = (*["position"] * 7, *["counting"] * 5, *["color_attr"] * 3, "colors", "two_object")
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant"),
    *("stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra"),
    *("giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite"),
    *("baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork"),
    *("knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut"),
    *("cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote"),
    *("computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase"),
    *("scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""COCO's, with GenEval's names for mouse, remote and keyboard."""
THINGS = tuple(name for name in CLASSES if name != "person")
"""What may have a colour."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
SEEN_FROM_THERE = {"right of": "left of", "below": "above"}
NUMBERS = {2: "two", 3: "three", 4: "four"}


def rows(split: str = "train", count: int = 2000, seed: int = 0) -> list[Row]:
    rng, taken = numpy_generator(("geneval", split, seed)), _taken()

    def fits(row: Row) -> bool:
        known = content(row)
        return known not in taken and held_out("geneval", known) == (split == "test")

    return distinct(lambda: _drawn(rng, MIX[rng.integers(len(MIX))]), count, fits)


def benchmark(tag: str, count: int) -> list[Row]:
    """Distinct rows of a task type: always the same."""
    if tag == "single_object":
        return [_stated(tag, [{"class": name, "count": 1}]) for name in CLASSES[:count]]
    rng = numpy_generator(("geneval", tag))
    return distinct(lambda: _drawn(rng, tag), count)


@cache
def _taken() -> frozenset[str]:
    return frozenset(content(row) for tag, count in COUNTS.items() for row in benchmark(tag, count))


def content(row: Row) -> str:
    """What is stated, whichever object is named first."""
    first, *rest = row["include"]
    if not rest:
        return _phrase(first)
    relation = rest[0].get("position", ("",))[0]
    phrases = [_phrase(rest[0]), _phrase(first)]
    if relation in SEEN_FROM_THERE:
        relation, phrases = SEEN_FROM_THERE[relation], phrases[::-1]
    return f" {relation} ".join(phrases if relation else sorted(phrases))


def _drawn(rng: np.random.Generator, tag: str) -> Row:
    names = CLASSES if tag in ("two_object", "counting", "position") else THINGS
    one, two = (names[i] for i in rng.choice(len(names), 2, False))
    color, other = (COLORS[i] for i in rng.choice(len(COLORS), 2, False))
    match tag:
        case "two_object":
            return _stated(tag, [{"class": one, "count": 1}, {"class": two, "count": 1}])
        case "counting":
            number = int(rng.integers(2, 5))
            return _stated(tag, [{"class": one, "count": number}], exclude=[{"class": one, "count": number + 1}])
        case "colors":
            return _stated(tag, [{"class": one, "count": 1, "color": color}])
        case "position":
            relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
            return _stated(tag, [{"class": two, "count": 1}, {"class": one, "count": 1, "position": [relation, 0]}])
    return _stated(tag, [{"class": one, "count": 1, "color": color}, {"class": two, "count": 1, "color": other}])


def _stated(tag: str, include: list[Row], **rest: Any) -> Row:
    return {"tag": tag, "include": include, **rest, "prompt": f"a photo of {caption(include)}"}


def caption(include: Sequence[Row]) -> str:
    """What is stated, in the official grammar: whoever has a place is named first."""
    *first, last = (_phrase(item) for item in include)
    if position := include[-1].get("position"):
        return f"{last} {position[0]} {first[0]}"
    return " and ".join([*first, last])


def _phrase(item: Row) -> str:
    name = f"{item['color']} {item['class']}" if "color" in item else str(item["class"])
    if item["count"] > 1:
        return f"{NUMBERS[item['count']]} {name}{'es' if name.endswith('s') else 's'}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
