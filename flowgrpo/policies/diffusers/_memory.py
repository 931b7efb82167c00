"""Memory of an update, from file headers and configs alone; no weights are loaded."""

import json
from pathlib import Path
from typing import Any

from flowgrpo.errors import UserError
from flowgrpo.paths import locate
from flowgrpo.policies._memory import ACTIVATIONS_PER_LAYER, STORED, count_parameters
from flowgrpo.policies.diffusers import DENOISERS, DiffusersConfig, ModelSize


def memory_bytes(config: DiffusersConfig, states: int) -> dict[str, int]:
    """Weights, trained weights (value, gradient, two Adam moments, EMA; float32) and activations of `states` states."""
    size = model_size(config)
    stored = STORED[config.dtype]
    trained = size.denoiser if config.lora is None else lora_parameters(config, size)
    frozen = size.frozen + (0 if config.lora is None else size.denoiser)
    layers = 1 if config.gradient_checkpointing else size.layers
    rows = states * (2 if config.call.get("guidance_scale", 1.0) > 1.0 else 1)
    return {
        "frozen_weights": stored * frozen,
        "trained_weights": 4 * 5 * trained,
        "activations": stored * rows * size.tokens * size.width * layers * ACTIVATIONS_PER_LAYER,
    }


def lora_parameters(config: DiffusersConfig, size: ModelSize) -> int:
    """Each target is taken to be a width x width layer, present once per block."""
    assert config.lora is not None
    return size.layers * len(config.lora.targets) * 2 * size.width * config.lora.rank


def model_size(config: DiffusersConfig) -> ModelSize:
    folder = locate(config.model)
    if (folder / "model_index.json").is_file():
        return _size_on_disk(folder)
    if config.size is None:
        raise UserError(f"model '{config.model}' is not on this disk; give policy.size so that memory can be estimated")
    return config.size


def _size_on_disk(folder: Path) -> ModelSize:
    counts = {part.name: count_parameters(part) for part in folder.iterdir() if part.is_dir()}
    denoiser = sum(n for name, n in counts.items() if name in DENOISERS)
    name = next(name for name in DENOISERS if name in counts)
    geometry = json.loads((folder / name / "config.json").read_text())
    return ModelSize(denoiser=denoiser, frozen=sum(counts.values()) - denoiser, **_geometry(geometry))


def _geometry(config: dict[str, Any]) -> dict[str, int]:
    """Depth, width and tokens of a transformer, UVit or UNet config; text tokens are counted as many as image tokens."""
    if "num_attention_heads" in config and "attention_head_dim" in config:
        width = config["num_attention_heads"] * config["attention_head_dim"]
        layers = config.get("num_layers", 1) + config.get("num_single_layers", 0)
    elif "num_hidden_layers" in config:
        width, layers = config["hidden_size"], config["num_hidden_layers"] + 2
    else:
        width, layers = config["block_out_channels"][-1], 2 * len(config["block_out_channels"])
    side = config.get("sample_size") or 64
    patch = config.get("patch_size") or 1
    return {"layers": layers, "width": width, "tokens": 2 * (side // patch) ** 2}
