"""Memory of an update, from file headers and configs alone; no weights are loaded."""

import json

from flowgrpo.errors import UserError
from flowgrpo.paths import locate
from flowgrpo.policies._memory import ACTIVATIONS_PER_LAYER, STORED, count_parameters
from flowgrpo.policies.masked import MaskedConfig


def memory_bytes(config: MaskedConfig, states: int) -> dict[str, int]:
    """Weights, trained weights (value, gradient, two Adam moments, EMA; float32), activations and logits of `states` states.

    Of a model that is not on this disk only `policy.parameters` is known; its activations are left out.
    """
    folder, stored = locate(config.model), STORED[config.dtype]
    known = (folder / "config.json").is_file()
    if not known and config.parameters is None:
        raise UserError(f"model '{config.model}' is not on this disk; give policy.parameters so that memory can be estimated")
    parameters = count_parameters(folder) if known else config.parameters or 0
    geometry = json.loads((folder / "config.json").read_text()) if known else {}
    width, layers, size = (geometry.get(key, 0) for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    trained = parameters if config.lora is None else layers * len(config.lora.targets) * 2 * width * config.lora.rank
    tokens = states * (config.prompt_length + config.length) * (1 if config.guidance_scale == 1.0 else 2)
    deep = 1 if config.gradient_checkpointing else layers
    return {
        "frozen_weights": 0 if config.lora is None else stored * parameters,
        "trained_weights": 4 * 5 * trained,
        "activations": stored * tokens * width * deep * ACTIVATIONS_PER_LAYER + 4 * states * config.length * size * 3,
    }
