"""What is trained of a pipeline: low-rank adapters, or all weights of the denoiser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from flowgrpo.errors import UserError
from flowgrpo.policies.diffusers import DENOISERS, LoraAdapter
from flowgrpo.sampling.keys import seed_of


def denoisers(pipe: DiffusionPipeline) -> dict[str, Any]:
    found = {name: pipe.components[name] for name in DENOISERS if pipe.components.get(name) is not None}
    if not found:
        raise UserError(f"{type(pipe).__name__} has no component named {' or '.join(DENOISERS)} to train")
    return found


class LoraWeights:
    """Adapters in float32 on a frozen denoiser; the reference is the model with adapters switched off."""

    def __init__(self, pipe: DiffusionPipeline, config: LoraAdapter, seed: int) -> None:
        self.pipe, self.modules = pipe, denoisers(pipe)
        peft = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            init_lora_weights="gaussian",
            target_modules=list(config.targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of((seed, "lora")))
            for name, module in self.modules.items():
                _add_adapter(name, module, peft)

    @contextmanager
    def reference(self) -> Iterator[None]:
        for module in self.modules.values():
            module.disable_adapters()
        try:
            yield
        finally:
            for module in self.modules.values():
                module.enable_adapters()

    def export(self, folder: Path) -> None:
        layers = {f"{name}_lora_layers": get_peft_model_state_dict(m) for name, m in self.modules.items()}
        self.pipe.save_lora_weights(str(folder), **layers)


def _add_adapter(name: str, module: Any, peft: LoraConfig) -> None:
    try:
        module.add_adapter(peft)
    except ValueError as error:
        raise UserError(f"no layer of '{name}' matches lora.targets {sorted(peft.target_modules)}") from error
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class FullWeights:
    """All weights of the denoiser, in float32; the reference is a copy, kept on the CPU, that changes places with them."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.modules = denoisers(pipe)
        for module in self.modules.values():
            module.float().requires_grad_(True)
        self.initial = [p.detach().to("cpu", copy=True) for p in self.parameters()]

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules.values() for p in module.parameters()]

    @contextmanager
    def reference(self) -> Iterator[None]:
        trained = [p.data for p in self.parameters()]
        _place(self.parameters(), [w.to(t.device) for w, t in zip(self.initial, trained, strict=True)])
        try:
            yield
        finally:
            _place(self.parameters(), trained)

    def export(self, folder: Path) -> None:
        for name, module in self.modules.items():
            module.save_pretrained(str(folder / name))


def _place(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
