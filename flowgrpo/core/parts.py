"""Tensors of which each process holds a part (DTensor), and plain ones alike."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def in_parts(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """This process's part, in the same memory."""
    return cast(DTensor, tensor.detach()).to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """All of it, of which all processes ask together."""
    return cast(DTensor, tensor.detach()).full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As they are now, in main memory, those in parts in the same ones. What has several names is copied once."""
    made: dict[tuple[Any, ...], Tensor] = {}
    kept = {}
    for name, tensor in tensors.items():
        place = own(tensor).data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if not tensor.numel() or place not in made:
            made[place] = tensor.detach().to("cpu", copy=True)
        kept[name] = made[place]
    return kept


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Let it hold `value`, which is whole or in the same parts."""
    if isinstance(tensor, DTensor) and not isinstance(value, DTensor):
        value = share_out(value, tensor)
    own(tensor).copy_(own(value))


def share_out(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that all processes have, in the parts of another one."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
