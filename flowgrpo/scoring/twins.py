"""Tiny twins: the same reward, judge or detector on random weights that are made on the spot, so that a rehearsal downloads
nothing.

Who needs weights or a server states beside its own definition how its twin is made. Whoever states nothing needs none, and is
rehearsed as it is.
"""

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from flowgrpo.core.keys import Key, torch_generator
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.card import card
from flowgrpo.scoring.scorer import find_reward

T = TypeVar("T", bound=Callable)
N = TypeVar("N", bound=nn.Module)
Arguments = dict[str, Any]
Make = Callable[[Path, Arguments], Arguments]
"""(an empty folder of its own, the arguments of the recipe) -> the arguments of the twin."""
_made_by: dict[Callable, Make] = {}


def tiny(make: Make) -> Callable[[T], T]:
    """Decorates a reward, a judge or a detector; its subclasses have the same twin."""

    def state(target: T) -> T:
        _made_by[target] = make
        return target

    return state


def twin(use: str, arguments: Mapping[str, Any] | None, folder: Path) -> Arguments:
    """The arguments of the twin of what `use` names: those that are given where it has no twin."""
    target, _ = find_reward(use)
    line = target.__mro__ if isinstance(target, type) else (target,)
    make = next((_made_by[one] for one in line if one in _made_by), None)
    if make is None:
        return dict(arguments or {})
    folder.mkdir(parents=True, exist_ok=True)
    return make(folder, dict(arguments or {}))


def inner(name: str) -> Make:
    """Of a reward that makes another, which its argument `name` names, with its argument `arguments`."""

    def make(folder: Path, arguments: Arguments) -> Arguments:
        return {**arguments, "arguments": twin(arguments[name], arguments.get("arguments"), folder / "inner")}

    return make


def randomised(network: N, key: Key, scale: float = 0.3) -> N:
    """Weights large enough that every part of a network matters to what comes out."""
    generator = torch_generator(("tiny", *key))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


drawn = partial(
    card,
    range=(0.0, 1.0),
    better="nothing: it is a random number that depends on the sample alone",
    licence="Apache-2.0",
    source="flowgrpo",
)


@drawn(reads=None)
def lots(samples: Samples) -> list[float]:
    """Drawn for each sample by its content, so that no two samples of a group are alike to a rehearsal."""
    return [_lot(output) for output in samples.decoded]


@drawn(reads="latents", noisy=True)
def lots_of_latents(samples: Samples) -> list[float]:
    """The same by latents, for a plan that values them on their way."""
    return [_lot(state) for state in samples.latents.states.cpu()]


def _lot(output: "str | torch.Tensor") -> float:
    content = output.encode() if isinstance(output, str) else output.contiguous().numpy().tobytes()
    return blake2b(content, digest_size=1).digest()[0] / 255.0
