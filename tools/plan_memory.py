"""What `flowgrpo plan` says of the activations of an update, by model and published method, beside what autograd saves.

    python tools/plan_memory.py [--activations] [MODEL ...]

The denoiser's own class is called at its real size, on tensors without memory (`flowgrpo plan --measure` does the same), with as
many rows as the recipe has in a batch; what autograd saves is counted by hooks. Where blocks are computed again (checkpointing),
one of them and the casts of weights, which hooks don't see, are added. Configs are those that the authors publish, their
number of parameters is checked against the recipe's. `--activations` prints what recipes say in `policy.size.denoiser` instead.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from flowgrpo.config.run import Config, load_config
from flowgrpo.policies import Activations, LoraAdapter, autocasts
from flowgrpo.policies._counting import count, saved_bytes, shapes_only, without_memory
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies._weights import attach
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._inputs import inputs
from flowgrpo.policies.diffusers._measure import activations, denoiser
from flowgrpo.policies.diffusers._memory import backward_bytes, cast_bytes, rows_of
from flowgrpo.policies.diffusers._size import Grid
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked._policy import recompute_layers
from flowgrpo.training.bench.real_language import DREAM
from flowgrpo.training.bench.real_pipelines import SD35_TRANSFORMER, WAN_TRANSFORMER

GIB = 2**30


@dataclass(frozen=True)
class Model:
    """A denoiser's class and config, where it is not the class's default; `side` pixels are the edge of a token, `time` frames
    make one. `shown` pictures of the same size go through it beside what it makes."""

    name: str
    side: int
    methods: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    time: int = 1
    shown: int = 0


SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
FLUX = ("flow_grpo", "dance_grpo", "mix_grpo", "branch_grpo", "pref_grpo", "tempflow_grpo", "grpo_guard")
MODELS = {
    "sd-1.5": Model("UNet2DConditionModel", 8, ("ddpo", "dance_grpo"), SD15),
    "sdxl": Model("UNet2DConditionModel", 8, ("flow_grpo",), SDXL),
    "pixart": Model("PixArtTransformer2DModel", 16, ("dance_grpo",), {"sample_size": 64, "caption_channels": 4096}),
    "sd3.5-medium": Model("SD3Transformer2DModel", 16, ("flow_grpo", "mix_grpo"), SD35_TRANSFORMER),
    "flux.1-dev": Model("FluxTransformer2DModel", 16, FLUX, {"guidance_embeds": True}),
    "flux.1-kontext": Model("FluxTransformer2DModel", 16, ("flow_grpo",), {"guidance_embeds": True}, shown=1),
    "flux.2": Model("Flux2Transformer2DModel", 16, ("flow_grpo_fast",)),
    "qwen-image": Model("QwenImageTransformer2DModel", 16, ("flow_grpo",)),
    "z-image": Model("ZImageTransformer2DModel", 16, ("flow_grpo_fast",)),
    "sana": Model("SanaTransformer2DModel", 32, ("flow_grpo_fast",)),
    "wan2.1-1.3b": Model("WanTransformer3DModel", 16, ("flow_grpo", "dance_grpo"), WAN_TRANSFORMER, time=4),
    "wan2.2-a14b": Model("WanTransformer3DModel", 16, ("flow_grpo_fast", "grpo_guard"), time=4),
    "hunyuan-video": Model("HunyuanVideoTransformer3DModel", 16, ("dance_grpo",), time=4),
    "ltx-video": Model("LTXVideoTransformer3DModel", 32, ("flow_grpo_fast",), time=8),
}


LANGUAGE = {
    "llada-8b": LlamaConfig(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=32, num_attention_heads=32, vocab_size=126464
    ),
    "dream-7b": Qwen2Config(**DREAM),
}
"""Models whose own code is on the hub only: configs of transformers with the same blocks."""


def geometry(model: Model) -> dict[str, Any]:
    return {**model.config, "_class_name": model.name}


def grid(model: Model, policy: DiffusersConfig) -> Grid:
    height, width = (policy.call.get(key, 512) // model.side for key in ("height", "width"))
    return 1 + (policy.call.get("num_frames", 1) - 1) // model.time + model.shown, height, width


def counted(model: Model, policy: DiffusersConfig, rows: int, checkpointing: bool) -> tuple[int, int]:
    """Bytes that autograd saves of one evaluation, and parameters."""
    assert policy.size is not None
    made = denoiser(geometry(model), policy.lora, policy.dtype, checkpointing)
    parameters = sum(p.numel() for name, p in made.named_parameters() if "lora_" not in name)
    with shapes_only(DTYPES[policy.dtype], autocasts(policy.dtype, policy.lora is None)) as mode:
        module = without_memory(made, mode)
        given = inputs(module, rows, grid(model, policy), policy.size.encoders.tokens, DTYPES[policy.dtype])
        return saved_bytes(module, given), parameters


def row(name: str, method: str) -> str:
    config: Config = load_config(f"{name}/{method}")
    policy = config.policy
    assert isinstance(policy, DiffusersConfig) and policy.size is not None
    size, model, again = policy.size, MODELS[name], policy.runtime.gradient_checkpointing > 0
    states = min(config.rollout.micro_batch, config.rollout.prompts_per_block * config.rollout.group_size)
    rows = rows_of(policy, size, states)
    saved, parameters = counted(model, policy, rows, again)
    casts = cast_bytes(policy, parameters)
    if again:
        block = (counted(model, policy, rows, False)[0] - casts) // size.denoiser.layers
        saved += block + casts
    planned = backward_bytes(policy, size, states) + casts
    trained = "all" if policy.lora is None else f"LoRA {policy.lora.rank}"
    return (
        f"{name:<14} {method:<14} {trained:<8} {policy.dtype} {'again' if again else '':<5} {rows:>3} rows  "
        f"plan {planned / GIB:>7.2f} GiB  saved {saved / GIB:>7.2f} GiB  {planned / saved - 1:>+5.1%}  "
        f"parameters {size.denoiser.parameters / parameters - 1:>+6.2%}"
    )


def held(name: str) -> str:
    """Of the model's own recipe, in 16 bits: those that it says, or bf16."""
    model = MODELS[name]
    policy = load_config(f"{name}/{model.methods[0]}").policy
    assert isinstance(policy, DiffusersConfig) and policy.size is not None
    size = policy.size.denoiser
    unit, text = size.tokens * size.width, policy.size.encoders.tokens
    dtype = "bf16" if policy.dtype == "fp32" else policy.dtype
    found = activations(geometry(model), grid(model, policy), text, unit, size.layers, dtype, policy.lora)
    return _shown(name, found)


def held_by_language_model(name: str) -> str:
    """A pass without a graph includes the head's answer for all ids of the canvas."""
    policy, config = load_config(f"{name}/diffu_grpo").policy, LANGUAGE[name]
    assert isinstance(policy, MaskedConfig)
    tokens = policy.prompt_length + policy.length
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def made(whole: bool, checkpointing: bool) -> Any:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
            if whole:
                model.float().requires_grad_(True)
            else:
                attach({"model": model}, LoraAdapter(rank=128, targets=targets), 0)
        if checkpointing:
            recompute_layers(model, name, 1)
        return model

    def given(_: Any, rows: int) -> dict[str, Any]:
        return {"input_ids": torch.zeros(rows, tokens, dtype=torch.long), "use_cache": False}

    unit, layers = tokens * config.hidden_size, config.num_hidden_layers
    return _shown(name, count(made, given, unit, layers, policy.lora is None, "bf16"))


def _shown(name: str, found: Activations) -> str:
    numbers = ", ".join(f"{key}: {value:.1f}" for key, value in found.model_dump(exclude={"dtype"}).items())
    return f"{name:<14} activations: {{{numbers}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--activations", action="store_true", help="print what a token keeps, for policy.size.denoiser")
    arguments = parser.parse_args()
    models = [*MODELS, *(LANGUAGE if arguments.activations else ())]
    if unknown := {*arguments.models} - {*models}:
        parser.error(f"{sorted(unknown)[0]} is not one of {', '.join(models)}")
    for name in arguments.models or models:
        if arguments.activations:
            print(held_by_language_model(name) if name in LANGUAGE else held(name), flush=True)
        else:
            print(*(row(name, method) for method in MODELS[name].methods), sep="\n", flush=True)


if __name__ == "__main__":
    main()
