"""Gradients of real models are too long to keep by the thousand: a sketch keeps their inner products.

D numbers of a gradient, M of its sketch.
"""

import torch
from torch import Tensor

from flowgrpo.core.keys import torch_generator

SIZE = 2**15


class Sketch:
    """A count sketch (Charikar, Chen and Farach-Colton 2002): every number is added, with a random sign, to one of M places.

    Inner products of sketches are those of the vectors without bias; of unit vectors x and y they err by
    sqrt((1 + (x.y)^2) / M) at most (standard deviation), 0.6 % to 0.8 % for M = 32,768. Vectors that are no longer than M are
    kept as they are, and their inner products are exact.
    """

    def __init__(self, length: int, device: torch.device, size: int = SIZE) -> None:
        self.length, self.exact = length, length <= size
        self.size = length if self.exact else size
        generator = torch_generator(("credit", "sketch", length, size))
        if not self.exact:
            self.place = torch.randint(size, (length,), generator=generator, dtype=torch.int32).to(device)
            self.sign = (torch.randint(2, (length,), generator=generator, dtype=torch.int8) * 2 - 1).to(device)

    @property
    def error(self) -> float:
        """Of the cosine of two sketched vectors at right angles, a standard deviation."""
        return 0.0 if self.exact else self.size**-0.5

    def __call__(self, vector: Tensor) -> Tensor:
        """[D] -> [M], in main memory."""
        if self.exact:
            return vector.float().cpu()
        return torch.zeros(self.size, device=vector.device).index_add_(0, self.place, vector.float() * self.sign).cpu()
