"""What a network holds in memory, counted on tensors that have a shape and a type but no memory: a real size needs no device.

The tensors say that they are on a GPU, so autocast and attention are those of one, whatever this machine has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowgrpo.core.errors import UserError, short
from flowgrpo.policies import Activations, autocasts
from flowgrpo.policies._dtypes import DTYPES

GPU = torch.device("cuda", 0)
ROWS = 1, 4, 8
"""Of three evaluations; in the first a module makes what it remembers, tables of positions."""
Inputs = Mapping[str, Any]
Network = Callable[[bool, bool], nn.Module]
"""A module on the device `meta`: whether all of it is trained, and whether it computes its blocks again."""


def count(
    network: Network, inputs: Callable[[nn.Module, int], Inputs], unit: int, layers: int, whole: bool, dtype: str
) -> Activations:
    """What so many `layers` hold of `unit` tokens x width a row. Casts of weights are left out: more rows add none."""

    def held(bytes_: Callable[[nn.Module, Inputs], int], trains_all: bool, again: bool = False) -> float:
        module = network(trains_all, again)
        with shapes_only(DTYPES[dtype], autocasts(dtype, trains_all)) as mode:
            here = without_memory(module, mode)
            _, fewer, more = (bytes_(here, inputs(here, rows)) for rows in ROWS)
        return (more - fewer) / ((ROWS[2] - ROWS[1]) * unit)

    return Activations(
        lora=held(saved_bytes, False) / layers,
        whole=held(saved_bytes, True) / layers,
        passing=held(passing_bytes, False),
        checkpointed=held(saved_bytes, whole, again=True) / layers,
        dtype=dtype,
    )


def not_here(model: str, files: str) -> UserError:
    return UserError(
        f"--measure builds the class of '{model}' from its {files} not on this disk; "
        "leave it out: policy.size is what is known of the model"
    )


@contextmanager
def foreign(name: str) -> Iterator[None]:
    """Inside, a class of others is called with what its arguments are named; whatever it raises means that it can't be."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{name} can't be measured without memory ({type(error).__name__}: {short(error)}); leave --measure out"
        ) from error


@contextmanager
def shapes_only(dtype: torch.dtype, casts: bool) -> Iterator[FakeTensorMode]:
    """Inside, tensors have no memory, and autocast, where it `casts`, computes in `dtype`."""
    before = torch.is_autocast_enabled(GPU.type), torch.get_autocast_dtype(GPU.type)
    torch.set_autocast_enabled(GPU.type, casts)
    torch.set_autocast_dtype(GPU.type, dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, Fused(), GPU:
            yield mode
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(GPU.type, before[0])
        torch.set_autocast_dtype(GPU.type, before[1])


class Fused(TorchFunctionMode):
    """Attention by fused kernels, which keep their inputs, the output and a number a row, and never the scores."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        return _fused(*args, **(kwargs or {}))


def _fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    if torch.is_autocast_enabled(GPU.type):
        dtype = torch.get_autocast_dtype(GPU.type)
        query, key, value = (x.to(dtype) for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if attn_mask is None and query.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    bias = None
    if attn_mask is not None:
        bias = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]


def without_memory(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """The module, made on the device `meta`, with tensors of `mode` in place of its own."""
    for layer in module.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                layer._parameters[name] = nn.Parameter(FakeTensor(mode, parameter.data, GPU), parameter.requires_grad)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = FakeTensor(mode, buffer.to("meta"), GPU)
    return module


def saved_bytes(module: nn.Module, inputs: Inputs) -> int:
    """What autograd keeps of a forward pass, parameters aside; storages that several tensors share are counted once."""
    given = {t.untyped_storage()._cdata for t in weights(module)}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            storages[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        module(**inputs)
    torch.clear_autocast_cache()
    return sum(storage.nbytes() for storage in storages.values())


def passing_bytes(module: nn.Module, inputs: Inputs) -> int:
    """The most that is alive at once in a forward pass without a graph, weights and inputs aside."""
    with torch.no_grad(), Alive([*weights(module), *(x for x in tree_leaves(inputs) if isinstance(x, Tensor))]) as seen:
        module(**inputs)
    torch.clear_autocast_cache()
    return seen.peak


def weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside that are alive at once, and their peak; views of `given` are not made."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.given = {t.untyped_storage()._cdata for t in given}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in self.given:
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result
