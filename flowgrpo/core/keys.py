"""Randomness with a name: every draw has a key, so a run is the same on one process or on eight."""

from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Key = tuple[int | str, ...]


def seed_of(key: Key) -> int:
    """A 63-bit seed; keys that differ anywhere give unrelated seeds."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(key: Key) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(seed_of(key))


def numpy_generator(key: Key) -> np.random.Generator:
    return np.random.default_rng(seed_of(key))


@dataclass(frozen=True, slots=True)
class Noise:
    """A draw of standard normal noise. Draws with the same `common` key correlate by `correlation`, in [0, 1]."""

    key: Key
    common: Key | None = None
    correlation: float = 0.0

    def draw(self, shape: "torch.Size", dtype: "torch.dtype | None" = None) -> "Tensor":
        """sqrt(rho) common + sqrt(1 - rho) alone, drawn on the CPU so that every device sees the same numbers; float32 where
        no `dtype` is named."""
        import torch

        dtype = dtype or torch.float32
        alone = torch.randn(shape, generator=torch_generator(self.key), dtype=dtype)
        if self.common is None:
            return alone
        shared = torch.randn(shape, generator=torch_generator(self.common), dtype=dtype)
        return sqrt(self.correlation) * shared + sqrt(1.0 - self.correlation) * alone
