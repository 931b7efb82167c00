"""`flowgrpo plan --measure` of a masked-diffusion language model: what its class holds, counted without memory or weights."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from flowgrpo.core.paths import locate
from flowgrpo.policies import LoraAdapter
from flowgrpo.policies._counting import count, foreign, not_here
from flowgrpo.policies._weights import attach
from flowgrpo.policies.masked import LanguageSize, MaskedConfig
from flowgrpo.policies.masked._adapter import unloaded
from flowgrpo.policies.masked._policy import recompute_layers

ATTENTION = LoraAdapter(targets=("q_proj", "k_proj", "v_proj", "o_proj"))
"""Where the config trains all weights."""


def measured_size(config: MaskedConfig) -> LanguageSize:
    """Of a model on this disk. Errors: UserError where it is not, or where its class can't be called without memory."""
    file = locate(config.model) / "config.json"
    if not file.is_file():
        raise not_here(config.model, "config file, which is")
    geometry = json.loads(file.read_text())
    layers, width, ids = (geometry[key] for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    tokens = config.prompt_length + config.length

    def network(whole: bool, checkpointing: bool) -> nn.Module:
        return _made(config, None if whole else config.lora or ATTENTION, checkpointing)

    def inputs(_: nn.Module, rows: int) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(rows, tokens, dtype=torch.long)}

    with foreign(f"'{config.model}'"):
        counted = count(network, inputs, tokens * width, layers, config.lora is None, config.dtype)
    return LanguageSize(layers=layers, width=width, ids=ids, activations=counted)


def _made(config: MaskedConfig, lora: LoraAdapter | None, checkpointing: bool) -> nn.Module:
    with torch.device("meta"):
        model: Any = unloaded(config).eval()
        if lora is None:
            model.float().requires_grad_(True)
        else:
            attach({"model": model}, lora, 0)
    if checkpointing:
        recompute_layers(model, config.model, 1)
    return model
