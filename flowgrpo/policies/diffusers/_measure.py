"""`flowgrpo plan --measure`: what a denoiser of this class and size holds, counted without memory and without weights."""

import json
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

from flowgrpo.core.errors import UserError, short
from flowgrpo.core.paths import locate
from flowgrpo.policies import Activations, LoraAdapter
from flowgrpo.policies._counting import passing_bytes, saved_bytes, shapes_only, without_memory
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies._weights import attach
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, ModelSize
from flowgrpo.policies.diffusers._inputs import inputs
from flowgrpo.policies.diffusers._size import Grid, grid_on_disk, size_on_disk

ROWS = 1, 4, 8
"""Of three evaluations; in the first a module makes what it remembers, tables of positions."""
Count = Callable[[nn.Module, Any], int]


def measured_size(config: DiffusersConfig) -> ModelSize:
    """Of a pipeline on this disk. Errors: UserError where it is not, or where its class can't be called without memory."""
    folder = locate(config.model)
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"--measure builds the class of '{config.model}' from its config files, which are not on this disk; "
            "leave it out: policy.size is what is known of the model"
        )
    size = size_on_disk(folder, config.call)
    grid, denoiser = grid_on_disk(folder, config.call)
    geometry = json.loads((denoiser / "config.json").read_text())
    unit = size.denoiser.tokens * size.denoiser.width
    text = max(1, size.encoders.tokens)
    try:
        found = activations(geometry, grid, text, unit, size.denoiser.layers, config.dtype, config.lora)
    except Exception as error:  # of a foreign class, called with what its arguments are named
        raise UserError(
            f"{geometry['_class_name']} can't be measured without memory ({type(error).__name__}: {short(error)}); "
            "leave --measure out"
        ) from error
    return size.model_copy(update={"denoiser": size.denoiser.model_copy(update={"activations": found})})


def activations(
    geometry: dict[str, Any], grid: Grid, text: int, unit: int, layers: int, dtype: str, lora: LoraAdapter | None
) -> Activations:
    """Of a denoiser with this config; `unit` is tokens x width. Casts of weights are left out: more rows add none."""

    def held(count: Count, whole: bool, checkpointing: bool = False) -> float:
        module = denoiser(geometry, None if whole else lora or AttentionLora(), dtype, checkpointing)
        with shapes_only(DTYPES[dtype]) as mode:
            made = without_memory(module, mode)
            _, fewer, more = (count(made, inputs(made, rows, grid, text)) for rows in ROWS)
        return (more - fewer) / ((ROWS[2] - ROWS[1]) * unit)

    return Activations(
        lora=held(saved_bytes, whole=False) / layers,
        whole=held(saved_bytes, whole=True) / layers,
        passing=held(passing_bytes, whole=False),
        checkpointed=held(saved_bytes, whole=lora is None, checkpointing=True) / layers,
        bits=32 if dtype == "fp32" else 16,
    )


def denoiser(geometry: dict[str, Any], lora: LoraAdapter | None, dtype: str, checkpointing: bool) -> Any:
    """On the device `meta`, with adapters, or all weights trained where `lora` is None."""
    with torch.device("meta"):
        module = getattr(diffusers, geometry["_class_name"]).from_config(geometry)
        if lora is None:
            module.float().requires_grad_(True).eval()
        else:
            attach({"denoiser": nn.Module.to(module, DTYPES[dtype])}, lora, 0)
    if checkpointing:
        module.enable_gradient_checkpointing()
    return module
