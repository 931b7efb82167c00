"""T2I-CompBench (arXiv 2307.06350): 300 prompts in each of six categories of composition, ten pictures a prompt.

The folder is `examples/dataset` of Karine-Huang/T2I-CompBench: color_val.txt, shape_val.txt, texture_val.txt, spatial_val.txt,
non_spatial_val.txt and complex_val.txt, a prompt a line. The counts are checked, no checksums are known.

The authors judge attributes with BLIP-VQA, spatial relations with the detector UniDet, non-spatial ones with CLIPScore and
complex prompts with a mean of the three. Here a vision-language model answers questions that are made from the prompt, so
figures are NOT comparable with published ones. CLIPScore is measured beside it, for all categories; `clip_score/non_spatial` is
the authors' measure.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._judge import JUDGED, judge
from flowgrpo.eval._official import counted, lines, member, official, prompts
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get the folder examples/dataset of https://github.com/Karine-Huang/T2I-CompBench"
CATEGORIES = ("color", "shape", "texture", "spatial", "non_spatial", "complex")
THINGS = re.compile(r" and (?=(?:an?|the) )")
RELATION = re.compile(r" (?:next to|near|on side of|on the (?:left|right|top|bottom) of) ")
METRIC = "questions"


def load(folder: Path | str | None, each: int | None = 300) -> list[Prompt]:
    total = each and each * len(CATEGORIES)
    rows = [row for category in CATEGORIES for row in _category(folder, category, each)]
    return prompts(rows, total, str(folder))


def _category(folder: Path | str | None, category: str, each: int | None) -> list[dict]:
    file = official(member(folder, f"{category}_val.txt"), each and each * len(CATEGORIES), None, HINT)
    stated = counted(lines(file), each, file)
    return [{"prompt": line, "category": category, "questions": questions(line, category)} for line in stated]


def questions(prompt: str, category: str) -> list[str]:
    """Of attributes: about each thing with its attribute. Of a spatial relation: about both things, then all. Else: about all."""
    prompt = prompt.rstrip(".")
    if category in ("color", "shape", "texture"):
        parts = THINGS.split(prompt)
    elif category == "spatial":
        parts = [*RELATION.split(prompt), prompt]
    else:
        parts = [prompt]
    return [f'Does the picture show this: "{part}"?' for part in dict.fromkeys(parts)]


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("category", asked, scores, METRIC) | means_by("category", asked, scores, "clip_score")


benchmark = Benchmark(
    summary=f"1800 prompts in six categories of composition, ten pictures each, {JUDGED}, and by CLIPScore",
    source="T2I-CompBench, arXiv 2307.06350; judged otherwise, so not comparable with published figures",
    licence="prompts: MIT",
    load=load,
    rewards={METRIC: judge("vlm:Questions"), "clip_score": RewardConfig(use="clip_score")},
    metric=METRIC,
    figures=figures,
    samples_per_prompt=10,
)
