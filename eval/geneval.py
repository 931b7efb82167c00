"""GenEval (arXiv 2310.11513): are the stated objects in the picture, in the stated number, colour and place?

Six task types, 553 prompts, four pictures each. With --file they are those of the official evaluation_metadata.jsonl, whose count
and task types are checked; no checksum is known. Without, they are generated, always the same, by the official grammar and in the
official numbers: fresh prompts, as good to compare checkpoints, and not those that published figures are of.

As in the official script, a task type's figure is the share of its pictures that are right, `overall` the mean of the task types.
Official are Mask2Former as the detector and CLIP as the judge of colours. Here torchvision's Mask R-CNN and the classical colours
of the reward `objects` judge: figures are NOT quite comparable with published ones. torchvision fetches its weights, unless
`'rewards.correct.arguments.arguments={model: maskrcnn_resnet50_fpn_v2, weights: FILE}'` names them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._official import json_lines, official, prompts
from flowgrpo.eval._own import distinct, numbered
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get prompts/evaluation_metadata.jsonl from https://github.com/djghosh13/geneval"
COUNTS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
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
NUMBERS = {2: "two", 3: "three", 4: "four"}
METRIC = "correct"
MODEL = "maskrcnn_resnet50_fpn_v2"
PAPER, FLOW_GRPO = "(GenEval's README)", "(arXiv 2505.05470, table 1)"

Row = dict[str, Any]


def load(path: Path | None, counts: Mapping[str, int] = COUNTS) -> list[Prompt]:
    if path is None:
        return numbered([row for tag, count in counts.items() for row in generated(tag, count)])
    total = sum(counts.values())
    found = prompts(json_lines(official(path, total, None, HINT), ("tag", "include", "prompt")), total, str(path))
    tags = Counter(str(prompt.metadata["tag"]) for prompt in found)
    if tags != Counter(counts):
        raise UserError(f"{path} has the task types {dict(tags)} instead of {dict(counts)}; {HINT}")
    return found


def generated(tag: str, count: int) -> list[Row]:
    """Distinct rows of a task type, in the official form."""
    if tag == "single_object":
        return [_stated(tag, [{"class": name, "count": 1}]) for name in CLASSES[:count]]
    rng = numpy_generator(("geneval", tag))
    return distinct(lambda: _drawn(rng, tag), count)


def _drawn(rng: np.random.Generator, tag: str) -> Row:
    one, two = (str(name) for name in rng.choice(CLASSES if tag in ("two_object", "counting", "position") else THINGS, 2, False))
    color, other = (str(name) for name in rng.choice(COLORS, 2, False))
    match tag:
        case "two_object":
            return _stated(tag, [{"class": one, "count": 1}, {"class": two, "count": 1}])
        case "counting":
            number = int(rng.integers(2, 5))
            return _stated(tag, [{"class": one, "count": number}], exclude=[{"class": one, "count": number + 1}])
        case "colors":
            return _stated(tag, [{"class": one, "count": 1, "color": color}])
        case "position":
            relation = str(rng.choice(RELATIONS))
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


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    tags = np.array([str(prompt.metadata["tag"]) for prompt in asked])
    by_tag = {tag: float(scores[METRIC][tags == tag].mean()) for tag in COUNTS if tag in tags}
    return {"overall": float(np.mean(list(by_tag.values()))), **by_tag}


def _published(*shares: float) -> Figures:
    return dict(zip(("overall", *COUNTS), shares, strict=True))


benchmark = Benchmark(
    summary="553 prompts of objects, counts, colours and places, four pictures each, judged by an object detector",
    source="Ghosh et al., arXiv 2310.11513; with --file the official prompts, else others of the same grammar; another detector",
    licence="prompts: MIT",
    load=load,
    rewards={METRIC: RewardConfig(use="objects:Strict", arguments={"detector": "torchvision", "arguments": {"model": MODEL}})},
    metric=METRIC,
    figures=figures,
    samples_per_prompt=4,
    published={
        f"SD v1.5 {PAPER}": _published(0.43, 0.97, 0.38, 0.35, 0.76, 0.04, 0.06),
        f"SD v2.1 {PAPER}": _published(0.50, 0.98, 0.51, 0.44, 0.85, 0.07, 0.17),
        f"SDXL {PAPER}": _published(0.55, 0.98, 0.74, 0.39, 0.85, 0.15, 0.23),
        f"FLUX.1-dev {FLOW_GRPO}": _published(0.66, 0.98, 0.81, 0.74, 0.79, 0.22, 0.45),
        f"SD3.5-M {FLOW_GRPO}": _published(0.63, 0.98, 0.78, 0.50, 0.81, 0.24, 0.52),
        f"SD3.5-M + Flow-GRPO {FLOW_GRPO}": _published(0.95, 1.00, 0.99, 0.95, 0.92, 0.99, 0.86),
    },
)
