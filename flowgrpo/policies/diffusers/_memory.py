"""Memory by phase, from `policy.size`, or from the headers and configs of a pipeline folder; no weights are loaded.

A phase holds what rests on the device, and what it makes: load, encode (prompts), rollout, decode, reward (what rests beside the
rewards' own models, which are not known), update.
"""

from math import prod
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.policies import Activations, Memory, Work
from flowgrpo.policies._memory import (
    STORED,
    TRAINED,
    gathered,
    gradients,
    lora_parameters,
    offloaded,
    passing,
    resting,
    share,
    training,
)
from flowgrpo.policies.diffusers import DENOISERS, REMEMBERED, DiffusersConfig, ModelSize, VaeSize
from flowgrpo.policies.diffusers._size import size_on_disk
from flowgrpo.policies.diffusers._sizes import SIZES

QUANTISED = {"nf4": 0.516, "int8": 1.0, "int8_weight_only": 1.0, "float8_weight_only": 1.0}
"""Bytes of a weight. nf4: 4 bits, and 0.127 for scales that are quantised too (QLoRA, arXiv 2305.14314, section 3)."""
DECODING = 15
"""Bytes of a value of the largest tensor while a VAE decodes: a residual block's input, its normalised and its activated copy, 4
bytes each in float32 (10 under autocast, which normalises in float32), and what convolutions of cuDNN work in: 15.4 measured
on a GPU for SD3's VAE and 8 pictures of 512 pixels."""


def memory(config: DiffusersConfig, work: Work) -> Memory:
    """Trained weights are float32; where all are trained, autocast keeps a copy in 16 bits. The first optimizer step leaves its
    moments there for good. An update's activations give way to the reference's weights and to the temporary copy of AdamW."""
    size, stored, runtime = model_size(config), STORED[config.dtype], config.runtime
    whole = config.lora is None
    trained = share(trained_parameters(config, size), work)
    weights = _weights(config, size)
    weights["denoiser"] = share(weights["denoiser"], work)
    waiting = {name: weights.pop(name) for name in ("encoders", "vae")} if runtime.offload else {}
    block = gathered(size.denoiser.parameters, size.denoiser.layers, stored, whole, work)
    rests = {**weights, **({"denoiser": 0} if whole else {}), **block, **resting(trained, work)}
    visits = {name: {name: bytes_} for name, bytes_ in waiting.items()}
    casts = cast_bytes(config, trained)
    part = _divided(size, work.team)
    waiting = {"latents": work.latents * _latent_bytes(size), "prompts": _prompt_bytes(config, size, work)}
    if work.graphed:
        waiting["graphs"] = graph_bytes(config, part, graphed_rows(config, part, work.graphed))
    texts = work.states * size.encoders.tokens * size.encoders.width
    forward = _forward(config, part, rows_of(config, size, work.states)) + casts
    backward = backward_bytes(config, part, work.states) + casts
    reference = forward + TRAINED * trained if work.referenced and whole else 0
    return {
        "load": weights,
        "encode": {
            **rests,
            **visits.get("encoders", {}),
            "activations": passing(config.dtype, texts, Activations()),
        },
        "rollout": {**rests, **waiting, "activations": forward},
        "decode": {**rests, **visits.get("vae", {}), **waiting, "activations": decode_bytes(config, size.vae, work.samples)},
        "reward": {**rests, **waiting},
        "update": {
            **rests,
            **waiting,
            "gradients": gradients(trained, work),
            "activations": max(backward, reference, TRAINED * trained),
        },
    }


def model_size(config: DiffusersConfig) -> ModelSize:
    if config.size is not None:
        return config.size
    folder = locate(config.model)
    if (folder / "model_index.json").is_file():
        return size_on_disk(folder, largest(config.call))
    raise UserError(f"model '{config.model}' is not on this disk; give policy.size so that memory can be estimated")


def _divided(size: ModelSize, team: int) -> ModelSize:
    """With the tokens that one of a team's processes has of a sample."""
    denoiser = size.denoiser.model_copy(update={"tokens": -(-size.denoiser.tokens // team)})
    return size.model_copy(update={"denoiser": denoiser})


def largest(call: dict[str, Any]) -> dict[str, Any]:
    """The call for the largest of its sizes."""
    sizes = call.get(SIZES)
    height, width = max(sizes, key=prod) if sizes else (None, None)
    return {**call, "height": height, "width": width} if sizes else call


def trained_parameters(config: DiffusersConfig, size: ModelSize) -> int:
    """Of a hub model each target is taken to be a width x width layer, present once per block."""
    denoiser, lora = size.denoiser, config.lora
    if lora is None:
        return denoiser.count * denoiser.parameters
    folders = [locate(config.model) / name for name in DENOISERS]
    if any(folder.is_dir() for folder in folders):
        return sum(lora_parameters(folder, lora.targets, lora.rank) for folder in folders)
    return denoiser.count * denoiser.layers * len(lora.targets) * 2 * denoiser.width * lora.rank


def decode_bytes(config: DiffusersConfig, vae: VaeSize, samples: int) -> int:
    """The last block of the decoder works at full resolution; beside it are the pixels that are done, in float32."""
    height, width = (largest(config.call).get(key, vae.side) for key in ("height", "width"))
    frames = config.call.get("num_frames", 1)
    done = samples * frames * height * width * 3 * 4
    tile = min(height, vae.side) * min(width, vae.side) if config.runtime.vae_tiling else height * width
    together = 1 if config.runtime.vae_slicing else samples
    return together * tile * min(frames, vae.frames) * vae.width * DECODING + done


def _weights(config: DiffusersConfig, size: ModelSize) -> dict[str, int]:
    """As they are loaded; all layers are taken to be linear, which is what is quantised."""
    stored, runtime = STORED[config.dtype], config.runtime
    fewer = QUANTISED.get(runtime.quantisation, stored)
    return {
        "denoiser": int(fewer * size.denoiser.count * size.denoiser.parameters),
        "encoders": int((fewer if runtime.quantise_encoders else stored) * size.encoders.parameters),
        "vae": stored * size.vae.parameters,
    }


def rows_of(config: DiffusersConfig, size: ModelSize, states: int) -> int:
    """Rows of a network evaluation; a call that does not say how it is guided is taken to be guided."""
    guided = size.denoiser.guided and config.call.get("guidance_scale", 2.0) > 1.0
    return states * (2 if guided or config.call.get("true_cfg_scale", 1.0) > 1.0 else 1)


def cast_bytes(config: DiffusersConfig, trained: int) -> int:
    """Copies in 16 bits of weights that are all trained, which autocast keeps as long as the evaluation lasts."""
    return STORED[config.dtype] * trained if config.lora is None and STORED[config.dtype] < TRAINED else 0


def _forward(config: DiffusersConfig, size: ModelSize, rows: int) -> int:
    denoiser = size.denoiser
    return passing(config.dtype, rows * denoiser.tokens * denoiser.width, denoiser.activations)


def backward_bytes(config: DiffusersConfig, size: ModelSize, states: int) -> int:
    """What guidance moves away from is evaluated after the rest, beside its graph, and keeps none of its own where
    `guidance_gradient` says so."""
    graphed = graphed_rows(config, size, states)
    return graph_bytes(config, size, graphed) + _forward(config, size, rows_of(config, size, states) - graphed)


def graphed_rows(config: DiffusersConfig, size: ModelSize, states: int) -> int:
    return states if config.guidance_gradient == "conditional" else rows_of(config, size, states)


def graph_bytes(config: DiffusersConfig, size: ModelSize, rows: int) -> int:
    denoiser, whole, every = size.denoiser, config.lora is None, int(config.runtime.gradient_checkpointing)
    unit = rows * denoiser.tokens * denoiser.width
    if config.runtime.offload_activations:
        return offloaded(config.dtype, unit, whole, every > 0, denoiser.activations)
    return training(config.dtype, unit, denoiser.layers, whole, every, denoiser.activations)


def _latent_bytes(size: ModelSize) -> int:
    return 4 * size.denoiser.tokens * size.denoiser.channels


def _prompt_bytes(config: DiffusersConfig, size: ModelSize, work: Work) -> int:
    """What the encoders gave for the batches of prompts that are remembered."""
    rows = min(work.batches, REMEMBERED) * rows_of(config, size, work.states)
    return STORED[config.dtype] * rows * size.encoders.tokens * size.encoders.width
