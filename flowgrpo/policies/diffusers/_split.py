"""Networks that a team of processes computes together, each with its own part of the tokens (context parallel).

Between two attentions a process has so many tokens and all heads, inside them all tokens and so many heads (DeepSpeed Ulysses,
arXiv 2309.14509). Where the tokens are divided, and where the prediction is put together again, is diffusers' own plan of the
network. All processes have the whole prediction, and go back through their own tokens' part of it: what is trained gets a part of
its gradient in each, and their sum is the whole.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import torch
from diffusers import ContextParallelConfig, DiffusionPipeline
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ParallelConfig
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._pytree import tree_map

from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.policies.diffusers import undivided
from flowgrpo.policies.diffusers._loop import helpers
from flowgrpo.policies.diffusers._table import PRIMED

UNEVEN = "must be divisible by mesh size"
"""What diffusers says of a sequence that can't be divided."""


class Splitting:
    """Over the processes of this one's team."""

    def __init__(self, processes: Processes) -> None:
        self.team, device = processes.team, processes.device
        shape, names = (processes.count, 1, self.team), ("teams", "ring", "ulysses")
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        self.parallel = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=self.team, mesh=mesh))
        self.parallel.setup(torch.distributed.get_rank(), torch.distributed.get_world_size(), device, mesh=mesh)

    def __call__(self, pipe: DiffusionPipeline, networks: Mapping[str, nn.Module]) -> None:
        """From now on the team computes these networks of a pipeline together. Errors: UserError where it can't."""
        beside, name = helpers(pipe, networks), type(pipe).__name__
        if beside or name in PRIMED:
            why = f"has a {next(iter(beside))}, which answers for whole" if beside else "keeps of its first step whole"
            raise UserError(f"distributed.context: {name} {why} sequences; set it to 1")
        for network in networks.values():
            self._require(network)
            for layer in _attentions(network):
                layer.processor._parallel_config = self.parallel
            apply_context_parallel(network, self.parallel.context_parallel_config, network._cp_plan)
            network.forward = self._called(type(network).__name__, network.forward)

    def _require(self, network: nn.Module) -> None:
        kind = type(network).__name__
        if reason := undivided(kind):
            raise UserError(f"distributed.context: {reason}")
        for layer in _attentions(network):
            if layer.heads % self.team:
                raise UserError(
                    f"{kind} has {layer.heads} attention heads, which {self.team} processes can't divide; set "
                    "distributed.context to a number that divides them"
                )
            backend = _backend(layer.processor)
            if not _AttentionBackendRegistry._is_context_parallel_available(backend):
                raise UserError(
                    f"the attention '{backend.value}' is not made for divided sequences; set policy.runtime.attention to native, "
                    "or distributed.context to 1"
                )

    def _called(self, kind: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                return tree_map(_arrived, forward(*args, **kwargs))
            except AssertionError as error:
                if UNEVEN not in str(error):
                    raise
                raise UserError(
                    f"{kind} has sequences, of the sample or of its text, that {self.team} processes can't divide evenly; change "
                    "the sizes in policy.call (height, width, num_frames, max_sequence_length), or distributed.context"
                ) from error

        return called


def _arrived(leaf: Any) -> Any:
    """What has been put together, once it is there."""
    return leaf.clone() if isinstance(leaf, AsyncCollectiveTensor) else leaf


def _attentions(network: nn.Module) -> Iterator[Any]:
    """Layers whose attention goes through diffusers' dispatcher."""
    for layer in network.modules():
        if "processor" in dir(layer) and "_parallel_config" in dir(layer.processor):
            yield layer


def _backend(processor: Any) -> AttentionBackendName:
    own = processor._attention_backend
    return AttentionBackendName(own) if own else _AttentionBackendRegistry.get_active_backend()[0]
