"""Are the stated objects in a picture, in the stated number, colour and place? GenEval (arXiv 2310.11513) over any detector.

Prompt rows and rules are the official ones: objects count with a confidence above 0.3 (0.9 where the tag is "counting"), at
most 16 of a class; there must be at least `count` of what is included and fewer of what is excluded; colour and place are
judged on the `count` most confident ones. Official are Mask2Former, `detector: mask2former`, and CLIP as the judge of colours,
which differs here.

`detector` is "mask2former", "owlv2", "torchvision", "faces", "text" or a plug-in, made with `arguments`; `colors` a plug-in
from a crop to a name, by default the nearest of some CSS colours in CIELAB.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._colors import CSS, Crop, crop, nearest_color
from flowgrpo.rewards._detectors import Box, Detect, Detection, Detector, detected, load_detector, tiny_detector
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import photos
from flowgrpo.scoring.exemplars import samples as exemplars
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.scoring.serving.wire import complaint
from flowgrpo.scoring.twins import tiny

FACES = "faces"
MARGIN = 0.1
"""Share of the sum of two objects' sizes by which their centres must differ."""


class Clause(BaseModel):
    """A class and a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(alias="class")
    count: PositiveInt


class Included(Clause):
    """At least so many. `position` is a relation, and the index of the clause to whose objects it holds."""

    color: str | None = None
    position: tuple[Literal["left of", "right of", "above", "below"], NonNegativeInt] | None = None

    @field_validator("color")
    @classmethod
    def _has_a_name(cls, color: str | None) -> str | None:
        if color is not None and color not in CSS:
            raise ValueError(f"'{color}' is none of GenEval's colours ({nearest(color, CSS)})")
        return color


class Row(BaseModel):
    """What a prompt row states."""

    tag: str = ""
    include: list[Included] = []
    exclude: list[Clause] = []

    @model_validator(mode="after")
    def _states_something(self) -> Self:
        if not self.include and not self.exclude:
            raise ValueError("nothing is included or excluded")
        for i, clause in enumerate(self.include):
            if clause.position and (clause.position[1] == i or clause.position[1] >= len(self.include)):
                raise ValueError(f"include.{i}.position must point to another clause of 'include', not to {clause.position[1]}")
        return self

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(metadata)
        except ValidationError as error:
            raise UserError(
                f"the prompt row {str(metadata)[:200]} does not state objects like GenEval: {complaint(error)}"
            ) from error


@dataclass(frozen=True, eq=False)
class Judge:
    """A confidence above the threshold counts; `colors` names the colour of a crop."""

    detect: Detect
    colors: Callable[[Crop], str]
    threshold: float
    counting_threshold: float
    max_objects: int

    def look(self, samples: Samples) -> list["Seen"]:
        """What is in each picture, and what should be."""
        rows = [self.read(metadata) for metadata in samples.metadata]
        detections = detected(self.detect, samples.images)
        return [Seen(*one) for one in zip(rows, samples.images, map(self._objects, rows, detections), strict=True)]

    def read(self, metadata: Mapping[str, Any]) -> Row:
        """A prompt row, if all that it states can be found."""
        row = Row.read(metadata)
        if isinstance(self.detect, Detector):
            _refuse_others(row, self.detect.classes)
        return row

    def facts(self, seen: "Seen") -> list[bool]:
        """Whether each fact holds."""
        row, picture, objects = seen
        chosen = [objects[clause.name][: clause.count] for clause in row.include]
        enough = [len(those) == clause.count for those, clause in zip(chosen, row.include, strict=True)]
        stated = list(enough)
        for clause, those, there in zip(row.include, chosen, enough, strict=True):
            if clause.color is not None:
                stated.append(there and all(self._color(picture, one) == clause.color for one in those))
            if clause.position is not None:
                relation, other = clause.position
                pairs = product(those, chosen[other])
                stated.append(there and enough[other] and all(relation in relations(a.box, b.box) for a, b in pairs))
        return stated + self._without(seen)

    def grades(self, seen: "Seen") -> list[float]:
        """How much of each number, colour and place there is; what a number alone excludes is part of the number."""
        row, picture, objects = seen
        those = [objects[clause.name] for clause in row.include]
        grades = [_close(len(some), clause.count) for some, clause in zip(those, row.include, strict=True)]
        right = [grade == 1.0 for grade in grades]
        for clause, some, there in zip(row.include, those, list(right), strict=True):
            if clause.color is not None:
                colored = sum(self._color(picture, one) == clause.color for one in some) if there else 0
                grades.append(_close(colored, clause.count))
            if clause.position is not None:
                relation, other = clause.position
                pairs = product(some, those[other])
                grades.append(float(there and right[other] and all(relation in relations(a.box, b.box) for a, b in pairs)))
        counted = {clause.name for clause in row.include}
        others = zip(self._without(seen), row.exclude, strict=True)
        return grades + [float(met) for met, clause in others if clause.name not in counted]

    def _without(self, seen: "Seen") -> list[bool]:
        """Of each excluded clause: is there less?"""
        return [len(seen.objects[clause.name]) < clause.count for clause in seen.row.exclude]

    def _objects(self, row: Row, detections: Sequence[Detection]) -> dict[str, list[Detection]]:
        """By class, the most confident first."""
        threshold = self.counting_threshold if row.tag == "counting" else self.threshold
        objects = defaultdict[str, list[Detection]](list)
        for detection in sorted(detections, key=lambda one: -one.score):
            if detection.score > threshold and len(objects[detection.name]) < self.max_objects:
                objects[detection.name].append(detection)
        return objects

    def _color(self, picture: Tensor, detection: Detection) -> str:
        color = self.colors(crop(picture, detection))
        if not isinstance(color, str):
            raise UserError(f"a judge of colours must return a name for a crop, not {color!r}")
        return color


class Seen(NamedTuple):
    """A prompt row, its picture, and the objects in it that count, by class, the most confident first."""

    row: Row
    picture: Tensor
    objects: dict[str, list[Detection]]


def _close(number: int, wanted: int) -> float:
    """1 where they are the same, less by the share that is missing or too many."""
    return max(0.0, 1.0 - abs(number - wanted) / wanted)


def _refuse_others(row: Row, classes: frozenset[str]) -> None:
    for clause in (*row.include, *row.exclude):
        if clause.name not in classes:
            raise UserError(
                f"the detector can't find any '{clause.name}' ({nearest(clause.name, classes)}); choose another detector"
            )


def relations(a: Box, b: Box) -> set[str]:
    """Where a is, seen from b. What the centres differ beyond the margin, over the distance of the centres, must exceed 1/2."""
    corners = np.array([a, b]).reshape(2, 2, 2)
    offset = np.subtract(*corners.mean(1))
    sizes = (corners[:, 1] - corners[:, 0]).sum(0)
    beyond = np.sign(offset) * np.maximum(np.abs(offset) - MARGIN * sizes, 0.0)
    if np.abs(beyond).max() < 1e-3:
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    return {name for name, share in {"left of": -dx, "right of": dx, "above": -dy, "below": dy}.items() if share > 0.5}


@tiny(lambda folder, arguments: tiny_detector(folder, {"detector": FACES, **arguments}))
class _Checked:
    def __init__(
        self,
        detector: str = FACES,
        arguments: Mapping[str, Any] | None = None,
        colors: str | None = None,
        threshold: float = 0.3,
        counting_threshold: float = 0.9,
        max_objects: int = 16,
    ) -> None:
        if not (0.0 <= threshold < 1.0 and 0.0 <= counting_threshold < 1.0 and max_objects >= 1):
            raise UserError("thresholds of confidence lie in [0, 1), and max_objects is at least 1")
        made_with = json.dumps(arguments or {}, sort_keys=True)
        self.judge = _judge(detector, made_with, colors, threshold, counting_threshold, max_objects)

    def look(self, samples: Samples) -> list[Seen]:
        return _look(self.judge, samples)


@lru_cache(maxsize=4)
def _judge(
    detector: str, arguments: str, colors: str | None, threshold: float, counting_threshold: float, max_objects: int
) -> Judge:
    """Rewards of the same arguments share a detector ..."""
    named = nearest_color if colors is None else cast(Callable[[Crop], str], load_reward(colors))
    return Judge(load_detector(detector, json.loads(arguments)), named, threshold, counting_threshold, max_objects)


@lru_cache(maxsize=4)
def _look(judge: Judge, samples: Samples) -> list[Seen]:
    """... and look at the same samples once."""
    return judge.look(samples)


def _ladder() -> list[Samples]:
    """Photographs without a face, and one of a face, where a face is asked for."""
    row = {"tag": "single_object", "include": [{"class": "face", "count": 1}], "prompt": "a photo of a face"}
    shown = [photos("coffee", "chelsea", "rocket"), photos("astronaut")]
    return [exemplars(pictures.images, [row] * len(pictures)) for pictures in shown]


judged = partial(
    card,
    reads="images",
    range=(0.0, 1.0),
    licence="Apache-2.0, and its detector's: faces and torchvision BSD-3-Clause, text and owlv2 Apache-2.0, mask2former 'other'",
    source="GenEval, arXiv 2310.11513",
    row='GenEval\'s: {"tag", "include": [{"class", "count", "color"?, "position"?: [relation, index]}], '
    '"exclude"?: [{"class", "count"}]}',
    ladder=_ladder,
    check=lambda reward, prompt: reward.judge.read(prompt.metadata),
)


@judged(better="1: every stated fact holds, 0: one does not")
class Strict(_Checked):
    """1 or 0."""

    def __call__(self, samples: Samples) -> list[float]:
        return [float(all(self.judge.facts(seen))) for seen in self.look(samples)]


@judged(better="more of the stated facts hold: each count, colour, position and exclusion is one")
class Soft(_Checked):
    """The share of facts that hold."""

    def __call__(self, samples: Samples) -> list[float]:
        return [float(np.mean(self.judge.facts(seen))) for seen in self.look(samples)]


@judged(better="counts are closer to what is stated, and where they are right, more of the colours and places are right")
class Graded(_Checked):
    """What Flow-GRPO trains on (arXiv 2505.05470): the mean over all that is stated of 1 - |n - N| / N for n objects where N are
    stated, and of colours and places, which count where the number is right. Below 0 it is 0, which is ours.
    """

    def __call__(self, samples: Samples) -> list[float]:
        return [float(np.mean(self.judge.grades(seen))) for seen in self.look(samples)]
