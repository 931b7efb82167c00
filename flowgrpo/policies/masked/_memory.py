"""Memory by phase, from file headers and configs alone; no weights are loaded."""

import json

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.policies import Activations, Memory, Work
from flowgrpo.policies._memory import STORED, TRAINED, count_parameters, lora_parameters, passing, resting, training
from flowgrpo.policies.masked import MaskedConfig


def memory(config: MaskedConfig, work: Work) -> Memory:
    """Logits [states, length, V] are float32, and three times there: as they are, as log-probs, and their gradient.

    Of a model that is not on this disk only `policy.parameters` is known: its activations are left out, and so are adapters.
    """
    folder, stored = locate(config.model), STORED[config.dtype]
    known = (folder / "config.json").is_file()
    if not known and config.parameters is None:
        raise UserError(f"model '{config.model}' is not on this disk; give policy.parameters so that memory can be estimated")
    parameters = count_parameters(folder) if known else config.parameters or 0
    geometry = json.loads((folder / "config.json").read_text()) if known else {}
    width, layers, ids = (geometry.get(key, 0) for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    lora = config.lora
    trained = parameters if lora is None else lora_parameters(folder, lora.targets, lora.rank) if known else 0
    rows = work.states * (1 if config.guidance_scale == 1.0 else 2)
    size, logits = rows * (config.prompt_length + config.length) * width, 4 * work.states * config.length * ids
    weights = {"weights": 0 if lora is None else stored * parameters, **resting(trained, work)}
    deep = training(stored, size, layers, lora is None, config.gradient_checkpointing, Activations())
    return {
        "load": {"weights": stored * parameters},
        "rollout": {**weights, "activations": passing(stored, size, Activations()) + logits},
        "update": {**weights, "gradients": TRAINED * trained, "activations": deep + 3 * logits},
    }
