"""What a network's blocks compute, pooled to a few numbers for each state.

Shapes: B states; a network evaluates R rows, several for a state where guidance or frames make them; F features.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import torch_generator

MOST = 256
"""Features of a state; more are projected to so many."""


class LastBlock:
    """Keeps the output of the block that runs last, of all in the outermost lists of blocks of these networks, while it is asked
    to. Errors: UserError where they have no list of blocks."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.networks = list(networks)
        self.blocks = [block for network in self.networks for block in _outermost(network)]
        self.output: Any = None
        if not self.blocks:
            raise UserError(
                f"{type(self.networks[0]).__name__} has no list of blocks to watch, so completion 'learned' can't be used; take "
                "another one, such as {steps: 1}"
            )

    @contextmanager
    def __call__(self) -> Iterator[None]:
        handles = [block.register_forward_hook(self._keep) for block in self.blocks]
        try:
            yield
        finally:
            self.output = None
            for handle in handles:
                handle.remove()

    def _keep(self, block: nn.Module, given: Any, output: Any) -> None:
        self.output = output

    def taken(self) -> Any:
        """What it kept, which is gone then."""
        output, self.output = self.output, None
        if output is None:
            raise UserError(
                f"{type(self.networks[0]).__name__} does not run its blocks one by one, so completion 'learned' can't be used "
                "with it; take another one, such as {steps: 1}"
            )
        return output


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The items of the lists in a network, but of none that is inside another's item."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _outermost(child)


def stream(output: Any) -> Tensor:
    """The tokens [n, T, C] that a block of a language model hands on."""
    return next(x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 3)


def pooled(output: Any, rows: int) -> Tensor:
    """[R, F]: mean and deviation of each channel of all streams of a block's output, float64. Tokens [n, T, C] have their
    channels last; of planes and clips, [n, C, H, W] or [n, F, H, W, C], the first or last dimension is taken, the larger one."""
    streams = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 3]
    columns = []
    for x in (_rows_first(x, rows) for x in streams):
        if len(x) % rows == 0:
            channels_first = x.ndim > 3 and x.shape[1] >= x.shape[-1]
            values = (x.movedim(1, -1) if channels_first else x).detach().double()
            values = values.reshape(rows, -1, values.shape[-1])
            columns += [values.mean(1), values.std(1, correction=0)]
    if not columns:
        raise UserError("completion 'learned' can't tell which rows of the network's blocks are of which state; take another one")
    return torch.cat(columns, dim=1)


def _rows_first(x: Tensor, rows: int) -> Tensor:
    """Some networks have tokens [T, n, C]."""
    return x.transpose(0, 1) if x.ndim == 3 and len(x) != rows == x.shape[1] else x


def narrowed(features: Tensor) -> Tensor:
    """[B, F] with F at most `MOST`: by a keyed random projection where there are more."""
    width = features.shape[1]
    if width <= MOST:
        return features
    drawn = torch.randn(width, MOST, generator=torch_generator(("features", width)), dtype=torch.float64)
    return features @ (drawn / width**0.5).to(features.device)
