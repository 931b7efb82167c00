"""`flowgrpo plan --measure`: what a denoiser of this class and size holds, counted without memory and without weights."""

from typing import Any

import diffusers
import torch
from torch import nn

from flowgrpo.core.paths import locate
from flowgrpo.core.whole import read_json
from flowgrpo.policies import Activations, LoraAdapter
from flowgrpo.policies._counting import count, foreign, not_here
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies._weights import attach
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, ModelSize
from flowgrpo.policies.diffusers._inputs import inputs
from flowgrpo.policies.diffusers._memory import largest
from flowgrpo.policies.diffusers._size import Grid, grid_on_disk, size_on_disk


def measured_size(config: DiffusersConfig) -> ModelSize:
    """Of a pipeline on this disk. Errors: UserError where it is not, or where its class can't be called without memory."""
    folder = locate(config.model)
    if not (folder / "model_index.json").is_file():
        raise not_here(config.model, "config files, which are")
    call = largest(config.call)
    size, (grid, denoiser) = size_on_disk(folder, call), grid_on_disk(folder, call)
    geometry = read_json(denoiser / "config.json")
    unit = size.denoiser.tokens * size.denoiser.width
    text = max(1, size.encoders.tokens)
    with foreign(geometry["_class_name"]):
        counted = activations(geometry, grid, text, unit, size.denoiser.layers, config.dtype, config.lora)
    return size.model_copy(update={"denoiser": size.denoiser.model_copy(update={"activations": counted})})


def activations(
    geometry: dict[str, Any], grid: Grid, text: int, unit: int, layers: int, dtype: str, lora: LoraAdapter | None
) -> Activations:
    """Of a denoiser with this config; `unit` is tokens x width."""

    def network(whole: bool, checkpointing: bool) -> nn.Module:
        return denoiser(geometry, None if whole else lora or AttentionLora(), dtype, checkpointing)

    def given(module: nn.Module, rows: int) -> dict[str, Any]:
        return inputs(module, rows, grid, text, DTYPES[dtype])

    return count(network, given, unit, layers, lora is None, dtype)


def denoiser(geometry: dict[str, Any], lora: LoraAdapter | None, dtype: str, checkpointing: bool) -> nn.Module:
    """On the device `meta`, with adapters, or all weights trained where `lora` is None."""
    with torch.device("meta"):
        module: Any = getattr(diffusers, geometry["_class_name"]).from_config(geometry)
        if lora is None:
            module.float().requires_grad_(True).eval()
        else:
            attach({"denoiser": nn.Module.to(module, DTYPES[dtype])}, lora, 0)
    if checkpointing:
        module.enable_gradient_checkpointing()
    return module
