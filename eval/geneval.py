"""GenEval (arXiv 2310.11513): are the stated objects in the picture, in the stated number, colour and place?

Six task types, 553 prompts, four pictures each. With --file they are those of the official evaluation_metadata.jsonl, whose count
and task types are checked; no checksum is known. Without, they are generated, always the same, by the official grammar and in the
official numbers: fresh prompts, as good to compare checkpoints, and not those that published figures are of.

As in the official script, a task type's figure is the share of its pictures that are right, `overall` the mean of the task types.
Official are Mask2Former as the detector and CLIP as the judge of colours. Here torchvision's Mask R-CNN and the classical colours
of the reward `objects` judge: figures are NOT quite comparable with published ones. The official detector judges with
`rewards.correct.arguments.detector=mask2former 'rewards.correct.arguments.arguments={}'`. torchvision fetches its weights, unless
`'rewards.correct.arguments.arguments={model: maskrcnn_resnet50_fpn_v2, weights: FILE}'` names them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.prompts.geneval import COUNTS
from flowgrpo.data.prompts.geneval import benchmark as generated
from flowgrpo.eval._official import json_lines, official, prompts
from flowgrpo.eval._own import numbered
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get prompts/evaluation_metadata.jsonl from https://github.com/djghosh13/geneval"
METRIC = "correct"
MODEL = "maskrcnn_resnet50_fpn_v2"
PAPER, FLOW_GRPO = "(GenEval's README)", "(arXiv 2505.05470, table 1)"


def load(path: Path | None, counts: Mapping[str, int] = COUNTS) -> list[Prompt]:
    if path is None:
        return numbered([row for tag, count in counts.items() for row in generated(tag, count)])
    total = sum(counts.values())
    rows = prompts(json_lines(official(path, total, None, HINT), ("tag", "include", "prompt")), total, str(path))
    tags = Counter(str(prompt.metadata["tag"]) for prompt in rows)
    if tags != Counter(counts):
        raise UserError(f"{path} has the task types {dict(tags)} instead of {dict(counts)}; {HINT}")
    return rows


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
