"""Exponential moving averages of the trained weights."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from flowgrpo.core.lockstep import Lockstep
from flowgrpo.core.parts import fill
from flowgrpo.policies._weights import Swap, put


class Ema:
    """Averages named parameters; `decay_at` a step is what is left of the average."""

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        decay_at: Callable[[int], float],
        lockstep: Lockstep | None = None,
    ) -> None:
        self.parameters, self.decay_at = parameters, decay_at
        self.average = {name: p.detach().clone() for name, p in parameters.items()}
        self.swap = Swap([*parameters.values()], [*self.average.values()], lockstep)

    @torch.no_grad()
    def update(self, step: int) -> None:
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter, 1.0 - self.decay_at(step))

    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, average in self.average.items():
            fill(average, values[name])

    def settle(self) -> None:
        """From now on the parameters hold the average."""
        put([self.parameters[name] for name in self.average], self.average.values())

    def applied(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold the average."""
        return self.swap.applied()
