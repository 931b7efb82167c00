"""Types that weights are stored and computed in, by their names in a config."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDINGS = 16.0
"""Of its output that a network amounts to: the errors of L layers add up like a random walk, to sqrt(L) of one."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of rounding to this type."""
    return torch.finfo(dtype).eps / 2.0
