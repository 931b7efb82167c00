"""Adapters as files that pipelines load: through diffusers where the pipeline has a loader, else peft's own keys.

A trained B is stored times alpha / rank, since a loader takes the product A B as it is where a file states no alpha.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowgrpo.core.errors import UserError

FILE = "pytorch_lora_weights.safetensors"


def save(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module], scale: float, folder: Path) -> None:
    """The adapters of these denoisers; of a second expert, whose name diffusers' saver does not know, in a file of its own."""
    layers = {name: _scaled(get_peft_model_state_dict(module), scale) for name, module in modules.items()}
    if not has_loader(pipe, modules):
        tensors = {f"{name}.{key}": value.contiguous() for name, state in layers.items() for key, value in state.items()}
        save_file(tensors, folder / FILE)
        return
    first = _known(pipe, modules)
    pipe.save_lora_weights(str(folder), **{f"{name}_lora_layers": layers[name] for name in first})
    for name in modules.keys() - first:
        pipe.save_lora_weights(str(folder), **{f"{first[0]}_lora_layers": layers[name]}, weight_name=_own_file(name))


def load(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module], folder: Path) -> None:
    if not (folder / FILE).is_file():
        raise UserError(f"{folder}: no {FILE} in it")
    if not has_loader(pipe, modules):
        _inject(modules, load_file(folder / FILE))
        return
    pipe.load_lora_weights(str(folder), weight_name=FILE)
    for name in modules:
        if (folder / _own_file(name)).is_file():
            pipe.load_lora_weights(str(folder), weight_name=_own_file(name), **{f"load_into_{name}": True})


def has_loader(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module]) -> bool:
    """Whether diffusers loads adapters into this pipeline; some have the method, but a denoiser that it does not work on."""
    return "load_lora_weights" in dir(pipe) and all("load_lora_adapter" in dir(module) for module in modules.values())


def _known(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module]) -> list[str]:
    parameters = inspect.signature(pipe.save_lora_weights).parameters
    return [name for name in modules if f"{name}_lora_layers" in parameters]


def _own_file(name: str) -> str:
    return f"{name}_lora_weights.safetensors"


def _scaled(layers: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {key: value * scale if ".lora_B." in key else value for key, value in layers.items()}


def _inject(modules: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, module in modules.items():
        state = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        targets = sorted({key.partition(".lora_A")[0] for key in state if ".lora_A" in key})
        rank = next(len(value) for key, value in state.items() if ".lora_A" in key)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), module)
        set_peft_model_state_dict(module, state)
