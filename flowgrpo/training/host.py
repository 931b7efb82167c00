"""What waits for the update in main memory, and comes back to the device one batch ahead."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class Movable(Protocol):
    def on(self, device: torch.device) -> Self:
        """The same on the device; on a GPU the copies may still be under way."""
        ...

    def tensors(self) -> list[Tensor]:
        """What is copied."""
        ...


T = TypeVar("T", bound=Movable)


def on_host(tensor: Tensor) -> Tensor:
    """In main memory that is pinned where there is a GPU, so that it can be copied beside its work."""
    pinned = torch.cuda.is_available()
    if not tensor.is_cuda and tensor.is_pinned() == pinned:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned).copy_(tensor)


def ahead(waiting: Sequence[T], device: torch.device) -> Iterator[T]:
    """Each on the device, while the next one is copied there by a stream of its own."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    coming = _fetch(waiting[0], device, stream) if waiting else None
    for number in range(len(waiting)):
        assert coming is not None
        here, coming = coming, None
        if stream:
            torch.cuda.current_stream(device).wait_stream(stream)
            for tensor in here.tensors():
                tensor.record_stream(torch.cuda.current_stream(device))
        if number + 1 < len(waiting):
            coming = _fetch(waiting[number + 1], device, stream)
        yield here


def _fetch(item: T, device: torch.device, stream: torch.cuda.Stream | None) -> T:
    with torch.cuda.stream(stream):
        return item.on(device)
