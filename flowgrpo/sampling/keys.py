"""Randomness with a name: every draw has a key, so a run is the same on one process or on eight."""

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

Key = tuple[int | str, ...]


def seed_of(key: Key) -> int:
    """A 63-bit seed; keys that differ anywhere give unrelated seeds."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(key: Key) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(key))


def numpy_generator(key: Key) -> np.random.Generator:
    return np.random.default_rng(seed_of(key))


def standard_normal(key: Key, shape: torch.Size) -> Tensor:
    """float32, drawn on the CPU so that every device sees the same numbers."""
    return torch.randn(shape, generator=torch_generator(key))
