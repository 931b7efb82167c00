"""Tiny random pipelines of diffusers' own classes, built without a network: what conformance is measured on, and what a
rehearsal trains.

A builder is a function without arguments, named after its entry in the table, that makes a pipeline with random weights.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline

Kind = Literal[
    "text to image", "image to image", "control", "text to video", "image to video", "video to video", "class to image"
]


@dataclass(frozen=True)
class Tiny:
    """`call` is what a config's `policy.call` would hold, sizes and guidance. `conditions` are the pictures and clips of a prompt
    row, by the name of the call's argument: (height, width), (frames, height, width), or a list of such.

    `prompt` is the text, where a pipeline wants its own form. `steps` is the number of transitions, `options` are other fields
    of the policy's config (lora targets). `known` is why it is known not to pass.
    """

    name: str
    kind: Kind
    make: Callable[[], DiffusionPipeline]
    call: dict[str, Any]
    conditions: dict[str, Any] = field(default_factory=dict)
    steps: int = 4
    options: dict[str, Any] = field(default_factory=dict)
    prompt: str = "a red circle"
    known: str = ""

    def build(self) -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()


_found: dict[str, Tiny] = {}


def tiny(kind: Kind, call: dict[str, Any], **more: Any) -> Callable[[Callable[[], DiffusionPipeline]], Any]:
    """Register the decorated builder."""

    def register(make: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
        if make.__name__ in _found:
            raise ValueError(f"two tiny pipelines are named {make.__name__}")
        _found[make.__name__] = Tiny(make.__name__, kind, make, call, **more)
        return make

    return register


def pipelines() -> dict[str, Tiny]:
    """All entries, by name, those of a module in the order of its lines."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return dict(_found)
