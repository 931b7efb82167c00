"""Go through an iteration of a pipeline's loop without its network."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from flowgrpo.policies._compiled import uncompiled


class Idle:
    """Networks that answer with zeros while they rest; what zeros look like is known from a real answer to such shapes."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.resting = False
        self.rehearsing = False
        self.answers: dict[Any, Any] = {}
        for name, module in modules.items():
            module.forward = self._shadow(name, module.forward)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.resting = True
        try:
            yield
        finally:
            self.resting = False

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What is evaluated inside is compared only, and nobody's prediction."""
        self.rehearsing = True
        try:
            yield
        finally:
            self.rehearsing = False

    def _shadow(self, name: str, forward: Any) -> Any:
        @functools.wraps(forward)
        def answer(*args: Any, **kwargs: Any) -> Any:
            key = (name, *(_shape(leaf) for leaf in tree_leaves((args, sorted(kwargs.items())))))
            if self.resting and key in self.answers:
                return tree_map(_copy, self.answers[key])
            with uncompiled() if self.resting else nullcontext():
                output = forward(*args, **kwargs)
            if key not in self.answers:
                self.answers[key] = tree_map(_zeros, output)
            return output

        return answer


def _shape(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)


def _zeros(leaf: Any) -> Any:
    """Zeros that take no memory."""
    return leaf.new_zeros(()).detach().expand(leaf.shape) if isinstance(leaf, Tensor) else leaf


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
