"""Draw the noise that a call begins with once, not at every step.

A pipeline prepares latents, on the host, also where a state takes their place. Its generator is a new one each time, so the noise
is the same.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KEPT = 4
"""Draws in memory: a rollout and its last batch, an update and its last one."""


class Draws:
    """What new generators draw first, by shape, type and device; the same bits, and the generator as it is after that."""

    def __init__(self) -> None:
        self.new = torch.Generator().get_state()
        self.known: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def shadow(self, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(draw)
        def drawn(shape: Any, generator: Any = None, *args: Any, **kwargs: Any) -> Tensor:
            if not isinstance(generator, torch.Generator) or not self._is_new(generator):
                return draw(shape, generator, *args, **kwargs)
            key = repr((shape, args, sorted(kwargs.items())))
            if key not in self.known:
                self.known[key] = draw(shape, generator, *args, **kwargs), generator.get_state()
            self.known.move_to_end(key)
            if len(self.known) > KEPT:
                self.known.popitem(last=False)
            noise, after = self.known[key]
            generator.set_state(after)
            return noise.clone()

        return drawn

    def _is_new(self, generator: torch.Generator) -> bool:
        return generator.device.type == "cpu" and torch.equal(generator.get_state(), self.new)
