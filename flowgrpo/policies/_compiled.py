"""A network's repeated blocks, compiled: one code for all blocks of a class.

A block's `forward` is compiled, and what goes around it (hooks, gradient checkpointing) stays as it is. A code is made for each
case: with or without a graph, with adapters or without them, and for shapes that differ.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from shutil import which
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import calculate_time_spent
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map
from torch.utils._triton import has_triton

from flowgrpo.core.errors import UserError
from flowgrpo.policies import Compile
from flowgrpo.policies.prompt_check import tell

CASES = 128
"""Codes of a class at most; beyond them torch says so, and computes without."""
FORWARDS: dict[type[nn.Module], Any] = {}
"""What is compiled in this process, by the class of the blocks."""


def compiles(
    setting: str, asked: Compile | None, default: Compile, networks: Collection[nn.Module], device: torch.device
) -> bool:
    """Compile the blocks of these networks if this setting, or the default where it is left open, says so; whether it does.

    Errors: UserError where it was asked for and can't be done; where it is the default, a line says so.
    """
    if (asked or default) == "off":
        return False
    missing = lacks(device) or next((f"a list of blocks in {_kind(n)}" for n in networks if not any(repeated(n))), None)
    if missing and asked:
        raise UserError(f"{setting} 'blocks' needs {missing}; set it to off")
    if missing:
        tell([f"no blocks are compiled, which needs {missing}"])
        return False
    counts = ", ".join(f"{compile_blocks(network)} of {_kind(network)}" for network in networks)
    tell([f"blocks ({counts}) are compiled when they first run, which can take minutes; {setting}=off goes without"])
    return True


def _kind(network: nn.Module) -> str:
    return type(network).__name__


def compile_blocks(network: nn.Module) -> int:
    """How many blocks are compiled now, at their first use."""
    blocks = list(repeated(network))
    for block in blocks:
        block.forward = MethodType(_compiled(type(block)), block)
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(_in_one_piece)
    return len(blocks)


def _in_one_piece(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Torch multiplies a slice, such as the pictures' tokens behind those of a text, as a batch of products, which takes longer.
    What is whole already is not copied."""
    return tuple(x.contiguous() for x in given)


def repeated(network: Any) -> Iterator[nn.Module]:
    """The outermost blocks of the classes that diffusers names; where it names none, those in lists of a single class."""
    named = network._repeated_blocks if "_repeated_blocks" in dir(network) else None
    return _named(network, named) if named else _listed(network)


def _named(module: nn.Module, names: list[str]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__name__ in names:
            yield child
        else:
            yield from _named(child, names)


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and _alike(child):
            yield from child
        else:
            yield from _listed(child)


def _alike(modules: nn.ModuleList) -> bool:
    """Whether these are blocks of one class, which have layers of their own."""
    return len({*map(type, modules)}) == 1 and any(True for _ in modules[0].children())


def lacks(device: torch.device) -> str | None:
    """What a compiled block needs and this machine does not have."""
    if device.type == "cuda":
        return None if has_triton() else "Triton"
    return None if any(map(which, ("g++", "clang++", "cl"))) else "a C++ compiler"


def _compiled(kind: type[nn.Module]) -> Any:
    if kind not in FORWARDS:
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, CASES)
        FORWARDS[kind] = torch.compile(kind.forward)
    return FORWARDS[kind]


def evaluate_as_in_an_update(network: nn.Module) -> None:
    """Let the network run the code of an update where no gradient is asked for, too.

    That code keeps a graph, and a compiler that may fuse other operations without one rounds otherwise: log-ratios of the first
    step would not be 0. What the graph would keep is dropped as it is made.
    """
    forward = network.forward

    @wraps(forward)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with torch.enable_grad(), saved_tensors_hooks(_dropped, _gone):
            answer = forward(*args, **kwargs)
        return tree_map(_detached, answer)

    network.forward = evaluate


def _dropped(saved: Tensor) -> None:
    return None


def _gone(dropped: None) -> Tensor:
    raise AssertionError("a network that was evaluated without gradients has none")


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, blocks compute without compiling, for shapes that will not come again."""
    return torch.compiler.set_stance("force_eager") if FORWARDS else nullcontext()


def seconds_compiling() -> float:
    """What compiling has taken in this process so far."""
    return calculate_time_spent()["total_wall_time"] if FORWARDS else 0.0
