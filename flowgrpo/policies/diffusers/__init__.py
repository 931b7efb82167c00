"""Any diffusers pipeline as a policy."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from flowgrpo.policies import PolicyConfig
from flowgrpo.section import Section

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler

DENOISERS = ("transformer", "unet", "transformer_2")
"""Names under which diffusers pipelines keep what is trained."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class LoraAdapter(Section):
    """Low-rank adapters (peft) on the denoiser's layers whose names end in one of `targets`."""

    rank: PositiveInt = 32
    alpha: PositiveInt = 64
    targets: tuple[str, ...] = ATTENTION


class ModelSize(Section):
    """What `flowgrpo plan` needs to know of a model that is not on this disk: parameters, and the denoiser's geometry."""

    denoiser: PositiveInt
    frozen: PositiveInt
    layers: PositiveInt
    width: PositiveInt
    tokens: PositiveInt


class DiffusersConfig(PolicyConfig):
    """`model`: a pipeline folder, `asset:NAME`, or a hub id. `call` goes to every pipeline call as it is.

    `dtype` is what the frozen weights are stored and computed in; trained weights are float32. `lora: null` trains all
    weights of the denoiser. `size` is only for `flowgrpo plan`, when `model` is a hub id.
    """

    type: Literal["diffusers"] = "diffusers"
    model: str
    revision: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    call: dict[str, Any] = Field(default_factory=dict)
    lora: LoraAdapter | None = LoraAdapter()
    gradient_checkpointing: bool = False
    size: ModelSize | None = None

    def build(self, device: "torch.device", seed: int) -> "DiffusersPolicy":
        from flowgrpo.policies.diffusers._policy import DiffusersPolicy

        return DiffusersPolicy(self, device, seed)

    def build_sampler(self, device: "torch.device", lora: "Path | None") -> "PipelineSampler":
        from flowgrpo.policies.diffusers._policy import PipelineSampler

        sampler = PipelineSampler(self, device)
        if lora is not None:
            sampler.load_lora(lora)
        return sampler

    def memory_bytes(self, states: int) -> dict[str, int]:
        from flowgrpo.policies.diffusers._memory import memory_bytes

        return memory_bytes(self, states)
