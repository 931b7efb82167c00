"""Estimates of memory that all policies share."""

from math import prod
from pathlib import Path

from safetensors import safe_open

STORED = {"fp32": 4, "bf16": 2, "fp16": 2}
ACTIVATIONS_PER_LAYER = 34
"""Values of `width` that a transformer block keeps per token for its backward pass (arXiv 2205.05198, eq. 2, attention fused)."""


def count_parameters(folder: Path) -> int:
    """Of all safetensors files in a folder, from their headers."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            total += sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return total
