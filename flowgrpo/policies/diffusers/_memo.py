"""Encode a batch of prompts once, not at every step: remember what a text encoder returned for the same inputs."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

ENTRIES = 32


class Memo:
    """Replaces `module.forward`. A whole call is remembered, so that its bits are those of the untouched pipeline."""

    def __init__(self, module: nn.Module) -> None:
        self.forward = module.forward
        self.results: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        module.forward = self

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = tuple(_key(leaf) for leaf in tree_leaves((args, sorted(kwargs.items()))))
        if key not in self.results:
            self.results[key] = self.forward(*args, **kwargs)
        self.results.move_to_end(key)
        if len(self.results) > ENTRIES:
            self.results.popitem(last=False)
        return self.results[key]


def _key(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.cpu().numpy().tobytes()) if isinstance(leaf, Tensor) else repr(leaf)
