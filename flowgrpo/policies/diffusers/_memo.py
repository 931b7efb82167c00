"""Encode prompts and conditions once, not at every step: remember what encoders returned for the same inputs."""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha1
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from flowgrpo.policies.diffusers import REMEMBERED


class Memo:
    """A function that runs once per arguments. A whole call is remembered, so that its bits are those of the untouched one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.results: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = tuple(key_of(leaf) for leaf in tree_leaves((args, sorted(kwargs.items()))))
        if None in key:
            return self.function(*args, **kwargs)
        if key not in self.results:
            self.results[key] = self.function(*args, **kwargs)
        self.results.move_to_end(key)
        if len(self.results) > REMEMBERED:
            self.results.popitem(last=False)
        return tree_map(_copy, self.results[key])


def memoise_encoders(pipe: DiffusionPipeline) -> None:
    """Shadow what this pipeline encodes texts, pictures and clips with."""
    methods = [name for name in dir(type(pipe)) if name.startswith("encode_prompt")]
    for name in methods:
        setattr(pipe, name, Memo(getattr(pipe, name)))
    forwards = ("image_encoder", "vision_encoder") if methods else ("image_encoder", "vision_encoder", "text_encoder")
    for name, module in pipe.components.items():
        if module is not None and name.startswith(forwards):
            module.forward = Memo(module.forward)
        if module is not None and name.startswith("vae") and "encode" in dir(module):
            module.encode = Memo(module.encode)


def key_of(leaf: Any) -> Any:
    """What makes two arguments the same; None for what is known by its address only."""
    if isinstance(leaf, Tensor):
        return (
            "tensor",
            tuple(leaf.shape),
            str(leaf.dtype),
            _digest(leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()),
        )
    if isinstance(leaf, Image):
        return ("picture", leaf.mode, leaf.size, _digest(leaf.tobytes()))
    if isinstance(leaf, np.ndarray):
        return ("array", leaf.shape, str(leaf.dtype), _digest(np.ascontiguousarray(leaf)))
    name = repr(leaf)
    return None if " at 0x" in name else name


def _digest(data: Any) -> str:
    return sha1(data).hexdigest()


def _copy(leaf: Any) -> Any:
    """Some pipelines write into what their encoders gave them."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
