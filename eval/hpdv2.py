"""The HPS v2 benchmark (arXiv 2306.09341): 800 prompts in each of four styles, one picture a prompt, scored by HPS v2.1.

The folder is `benchmark` of the dataset zhwang/HPDv2: anime.json, concept-art.json, paintings.json and photo.json, each a list of
prompts. The counts are checked, no checksums are known. HPS v2.1 is the metric, by style and over all, as in the tables of
github.com/tgxs002/HPSv2, from which the published figures are; other reward models are measured beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.eval._figures import means, means_by
from flowgrpo.eval._official import counted, member, official, prompts, read_json
from flowgrpo.eval._preferences import PREFERENCES
from flowgrpo.evaluation.benchmarks.benchmark import Benchmark, Figures

HINT = "get the folder 'benchmark' without its pictures from the dataset zhwang/HPDv2, or give hf:zhwang/HPDv2/benchmark"
STYLES = ("anime", "concept-art", "paintings", "photo")
METRIC = "hps"


def load(folder: Path | str | None, each: int | None = 800) -> list[Prompt]:
    total = each and each * len(STYLES)
    rows = [{"prompt": text, "style": style} for style in STYLES for text in _style(folder, style, each)]
    return prompts(rows, total, str(folder))


def _style(folder: Path | str | None, style: str, each: int | None) -> list[str]:
    file = official(member(folder, f"{style}.json"), each and each * len(STYLES), None, HINT)
    texts = read_json(file)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{file} must be a list of prompts; {HINT}")
    return counted(texts, each, file)


def figures(asked: Sequence[Prompt], scores: Mapping[str, np.ndarray]) -> Figures:
    return means(scores) | means_by("style", asked, scores, METRIC)


def _published(*percent: float) -> Figures:
    """The scores by style and their mean, as the table has them."""
    labels = [*(f"{METRIC}/{style}" for style in STYLES), METRIC]
    return {label: value / 100.0 for label, value in zip(labels, percent, strict=True)}


benchmark = Benchmark(
    summary="3200 prompts in four styles, scored by HPS v2.1",
    source="HPS v2, arXiv 2306.09341",
    licence="prompts: Apache-2.0",
    load=load,
    rewards=PREFERENCES,
    metric=METRIC,
    figures=figures,
    published={
        "SDXL Refiner 0.9": _published(33.26, 32.07, 31.63, 28.38, 31.34),
        "SDXL Base 0.9": _published(32.84, 31.36, 30.86, 27.48, 30.63),
        "DeepFloyd-XL": _published(27.71, 26.07, 25.79, 27.96, 26.88),
        "Stable Diffusion v2.0": _published(27.09, 26.02, 25.68, 26.73, 26.38),
        "Stable Diffusion v1.4": _published(26.03, 24.87, 24.80, 25.70, 25.35),
        "DALL-E 2": _published(26.38, 24.51, 24.93, 25.55, 25.34),
    },
)
