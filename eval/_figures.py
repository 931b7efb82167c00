"""Figures that several benchmarks report. N samples."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from flowgrpo.data.prompts import Prompt
from flowgrpo.evaluation.benchmarks.benchmark import Figures


def means(scores: Mapping[str, np.ndarray]) -> Figures:
    """The mean of the scores [N] of each label."""
    return {label: float(values.mean()) for label, values in scores.items()}


def means_by(key: str, prompts: Sequence[Prompt], scores: Mapping[str, np.ndarray], label: str) -> Figures:
    """`label/GROUP`: the mean of that label's scores [N] over each group of prompts whose rows agree in `key`, as they appear."""
    groups = np.array([prompt.metadata[key] for prompt in prompts])
    return {f"{label}/{group}": float(scores[label][groups == group].mean()) for group in dict.fromkeys(groups.tolist())}


def shares(prompts: Sequence[Prompt], counts: Mapping[str, np.ndarray], categories: Sequence[str]) -> Figures:
    """For each category that is asked about, the share of its questions that are answered yes: `counts` [N] say how many are."""
    asked = Counter(category for prompt in prompts for category in prompt.metadata["categories"])
    return {category: float(counts[category].sum()) / asked[category] for category in categories if asked[category]}
