"""Activations that wait in main memory for the backward pass."""

from functools import cached_property, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

LEAST = 4096
"""Bytes of a tensor that is worth a copy."""


def offload_activations(network: nn.Module) -> None:
    """Let what a graph keeps of an evaluation of this network wait in main memory: the gradients are the same bit for bit.

    `torch.autograd.graph.save_on_cpu` does so too, and would copy the weights with the rest at each evaluation.
    """
    forward, host = network.forward, _Host(network)

    @wraps(forward)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        with saved_tensors_hooks(host.take, _back):
            return forward(*args, **kwargs)

    network.forward = evaluate


class _Waiting(NamedTuple):
    copy: Tensor
    device: torch.device


class _Host:
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @cached_property
    def weights(self) -> frozenset[int]:
        """Storages that stay on the device whatever the graph keeps."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return frozenset(t.untyped_storage()._cdata for t in tensors if not is_traceable_wrapper_subclass(t))

    def take(self, tensor: Tensor) -> Tensor | _Waiting:
        """On a GPU the host waits for no copy: they are made in the order of the GPU's work, as are those that come back."""
        if is_traceable_wrapper_subclass(tensor) or tensor.nbytes < LEAST:
            return tensor
        storage = tensor.untyped_storage()
        if storage._cdata in self.weights or tensor.nbytes > storage.nbytes():
            return tensor
        copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda and torch.cuda.is_available())
        return _Waiting(copy.copy_(tensor, non_blocking=tensor.is_cuda), tensor.device)


def _back(saved: Tensor | _Waiting) -> Tensor:
    return saved.copy.to(saved.device, non_blocking=True) if isinstance(saved, _Waiting) else saved
