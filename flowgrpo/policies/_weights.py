"""What is trained of a model: low-rank adapters, or all weights of some modules."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from types import MethodType
from typing import Any, Protocol

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import seed_of
from flowgrpo.core.lockstep import Lockstep
from flowgrpo.core.parts import in_parts, own
from flowgrpo.core.signals import uninterrupted
from flowgrpo.policies import LoraAdapter
from flowgrpo.policies._sharded import Sharding


class Weights(Protocol):
    def remember(self, lockstep: Lockstep | None) -> None:
        """Today's weights are those before training."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the modules are those before training."""
        ...


def attach(modules: Mapping[str, Any], lora: LoraAdapter | None, seed: int, sharding: Sharding | None = None) -> Weights:
    """Freeze these modules, of diffusers or transformers, and make trainable what `lora` says, or all of them where it is
    None; then share them out, if at all."""
    for module in modules.values():
        module.requires_grad_(False).eval()
    weights: Weights = LoraWeights(modules, lora, seed) if lora else FullWeights(modules)
    if sharding:
        sharding(modules)
    weights.remember(sharding.lockstep if sharding else None)
    return weights


def trainable(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{key}": parameter
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def saved(module: nn.Module, lora: bool) -> dict[str, torch.Tensor]:
    """What a file of the module holds: all weights, or those of adapters."""
    return {name: value for name, value in module.state_dict().items() if not lora or ".lora_" in name}


class LoraWeights:
    """Adapters on frozen modules; the reference is the modules with adapters switched off.

    They are trained in float32, whose steps may be far smaller than what 16 bits tell apart, and compute in the type of what they
    are given, with a copy that a graph goes back through: no sum of gradients has fewer bits than the weights.
    """

    def __init__(self, modules: Mapping[str, Any], config: LoraAdapter, seed: int) -> None:
        self.modules = modules
        peft = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            init_lora_weights="gaussian",
            target_modules=list(config.targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of((seed, "lora")))
            for name, module in modules.items():
                _add_adapter(name, module, peft)

    def remember(self, lockstep: Lockstep | None) -> None:
        """Without adapters they are."""

    @contextmanager
    def reference(self) -> Iterator[None]:
        self._switch(False)
        try:
            yield
        finally:
            self._switch(True)

    def _switch(self, on: bool) -> None:
        for module in self.modules.values():
            for layer in module.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.enable_adapters(on)


def _add_adapter(name: str, module: Any, peft: LoraConfig) -> None:
    if any(isinstance(layer, BaseTunerLayer) for layer in module.modules()):
        raise UserError(f"'{name}' has adapters already, perhaps another policy's; load the model anew, or merge them into it")
    try:
        if "add_adapter" in dir(module):
            module.add_adapter(peft)
        else:
            inject_adapter_in_model(peft, module)
    except ValueError as error:
        raise UserError(f"no layer of '{name}' matches lora.targets {sorted(peft.target_modules)}") from error
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            _compute_as_given(layer)


def _compute_as_given(layer: LoraLayer) -> None:
    """peft casts what a layer is given to the type of its adapter instead."""
    layer.cast_input_dtype_enabled = False
    for factor in (*layer.lora_A.values(), *layer.lora_B.values()):
        factor.forward = MethodType(_linear if isinstance(factor, nn.Linear) else _convolution, factor)


def _linear(factor: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, factor.weight.to(x.dtype))


def _convolution(factor: Any, x: torch.Tensor) -> Any:
    return factor._conv_forward(x, factor.weight.to(x.dtype), None)


class FullWeights:
    """All weights of the modules, in float32; the reference is a copy on the CPU, in the dtypes that they were loaded in, that is
    swapped in."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self.stored = [p.dtype for module in modules.values() for p in module.parameters()]
        self.modules = [module.float().requires_grad_(True) for module in modules.values()]

    def remember(self, lockstep: Lockstep | None) -> None:
        parameters = [p for module in self.modules for p in module.parameters()]
        initial = [own(p).to("cpu", dtype, copy=True) for p, dtype in zip(parameters, self.stored, strict=True)]
        self.initial = Swap(parameters, initial, lockstep)

    def reference(self) -> AbstractContextManager[None]:
        return self.initial.applied()


class Swap:
    """Other `values` for parameters; of those in parts, this process's. These are swapped when the processes in lockstep need it,
    in place, since others know their memory."""

    def __init__(self, parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor], lockstep: Lockstep | None) -> None:
        pairs = [(p, own(value)) for p, value in zip(parameters, values, strict=True)]
        self.whole = [pair for pair in pairs if not in_parts(pair[0])]
        self.parts = [(own(p), value) for p, value in pairs if in_parts(p)]
        self.trained: list[torch.Tensor] = []
        self.lockstep = lockstep
        self.number = lockstep.add_weights(self) if lockstep else 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold the values."""
        parameters = [p for p, _ in self.whole]
        trained = [p.data for p in parameters]
        with self.lockstep.using(self.number) if self.lockstep else nullcontext():
            try:
                put(parameters, [value.to(p.device, p.dtype) for p, value in self.whole])
                yield
            finally:
                put(parameters, trained)

    def enter(self) -> None:
        self.trained = [part.clone() for part, _ in self.parts]
        with uninterrupted():
            for part, value in self.parts:
                part.copy_(value)

    def leave(self) -> None:
        with uninterrupted():
            for (part, _), trained in zip(self.parts, self.trained, strict=True):
                part.copy_(trained)
        self.trained = []


def put(parameters: Iterable[nn.Parameter], values: Iterable[torch.Tensor]) -> None:
    """Let each parameter hold its value, all of them or none."""
    with uninterrupted():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value


def digest_of_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Of named tensors, by their bytes; one of them at a time is in main memory."""
    return digest_of({name: sha256(_bytes(weight)).hexdigest() for name, weight in weights.items()})


def _bytes(weight: torch.Tensor) -> bytes:
    return weight.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
