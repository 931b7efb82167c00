"""Memory by phase, from file headers and configs alone; no weights are loaded."""

import json

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.policies import Activations, Memory, Work
from flowgrpo.policies._memory import (
    STORED,
    count_parameters,
    gathered,
    gradients,
    lora_parameters,
    offloaded,
    passing,
    resting,
    share,
    training,
)
from flowgrpo.policies.masked import MaskedConfig


def memory(config: MaskedConfig, work: Work) -> Memory:
    """Logits [states, length, V] are float32, and three times there: as they are, as log-probs, and their gradient. Those that an
    objective asks for again are kept over the update.

    Of a model that is not on this disk only `policy.parameters` and `policy.size` are known.
    """
    folder, stored, lora = locate(config.model), STORED[config.dtype], config.lora
    known = (folder / "config.json").is_file()
    if not known and config.parameters is None:
        raise UserError(f"model '{config.model}' is not on this disk; give policy.parameters so that memory can be estimated")
    parameters = count_parameters(folder) if known else config.parameters or 0
    layers, width, ids, activations = _size(config)
    if lora is None:
        trained = parameters
    elif known:
        trained = lora_parameters(folder, lora.targets, lora.rank)
    else:
        trained = layers * len(lora.targets) * 2 * width * lora.rank
    apart = min(parameters, 2 * width * ids)
    trained = share(trained, work, apart if lora is None else 0)
    block = gathered(parameters - apart, layers, stored, lora is None, work)
    own = stored * share(parameters, work, apart)
    rows = work.states * (1 if config.guidance_scale == 1.0 else 2)
    size, logits = rows * (config.prompt_length + config.length) * width, 4 * work.states * config.length * ids
    kept = {"predictions": 4 * work.predictions * config.length * ids} if work.predictions else {}
    weights = {"weights": 0 if lora is None else own, **block, **resting(trained, work), **kept}
    every = int(config.gradient_checkpointing)
    if config.offload_activations:
        deep = offloaded(config.dtype, size, lora is None, every > 0, activations)
    else:
        deep = training(config.dtype, size, layers, lora is None, every, activations)
    if work.graphed:
        weights["graphs"] = (deep + logits) * work.graphed // work.states
    return {
        "load": {"weights": own},
        "rollout": {**weights, "activations": passing(config.dtype, size, activations) + logits},
        "update": {**weights, "gradients": gradients(trained, work), "activations": deep + 3 * logits},
    }


def _size(config: MaskedConfig) -> tuple[int, int, int, Activations]:
    """Layers, width and ids, of a model that is not on this disk as the config says or 0; and activations."""
    said, file = config.size, locate(config.model) / "config.json"
    activations = said.activations if said else Activations()
    if said and not file.is_file():
        return said.layers, said.width, said.ids, activations
    geometry = json.loads(file.read_text()) if file.is_file() else {}
    layers, width, ids = (geometry.get(key, 0) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    return layers, width, ids, activations
