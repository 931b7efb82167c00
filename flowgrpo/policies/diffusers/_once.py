"""What every call of a pipeline does again before its loop, done once: the noise that it begins with, and its schedule.

A pipeline prepares latents, on the host, also where a state takes their place; its generator is a new one each time, so the noise
is the same. And it computes its noise levels on the host and copies them to the device, for which the host waits.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from flowgrpo.policies.diffusers._memo import key_of

KEPT = 4
"""Draws in memory: a rollout and its last batch, an update and its last one."""
SCHEDULES = 64
"""In memory: by the step that the scheduler was left at, too."""
PLAIN = (int, float, str, type(None))


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


class Schedules:
    """What `set_timesteps` makes of a scheduler, by its arguments, the scheduler's config and the plain values that it had
    before."""

    def __init__(self) -> None:
        self.known: OrderedDict[Any, dict[str, Any]] = OrderedDict()

    def shadow(self, scheduler: Any, set_timesteps: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(set_timesteps)
        def set_once(*args: Any, **kwargs: Any) -> None:
            before = dict(vars(scheduler))
            plain = sorted((name, value) for name, value in before.items() if isinstance(value, PLAIN))
            key = tuple(key_of(leaf) for leaf in tree_leaves((args, sorted(kwargs.items()), plain, repr(scheduler.config))))
            if None in key:
                set_timesteps(*args, **kwargs)
                return
            if key not in self.known:
                set_timesteps(*args, **kwargs)
                changed = {name: value for name, value in vars(scheduler).items() if value is not before.get(name, before)}
                self.known[key] = tree_map(_copy, changed)
            self.known.move_to_end(key)
            if len(self.known) > SCHEDULES:
                self.known.popitem(last=False)
            vars(scheduler).update(tree_map(_copy, self.known[key]))

        return set_once


def _copy(leaf: Any) -> Any:
    """A scheduler may write into what it has."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf.copy() if isinstance(leaf, np.ndarray) else leaf
