"""Any diffusers pipeline as a policy."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from flowgrpo.policies import LoraAdapter, PolicyConfig
from flowgrpo.sampling.kernels import GaussianKernel, KernelFamily
from flowgrpo.section import Section

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler

DENOISERS = ("transformer", "unet", "transformer_2")
"""Names under which diffusers pipelines keep what is trained."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class AttentionLora(LoraAdapter):
    """By default on the attention layers, as diffusers names them."""

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
    `spacing` `uniform` gives the call sigmas 1, 1 - 1/S, .. 1/S, before the scheduler's shift, instead of the pipeline's own.
    Some pipelines (SD3) go to sigma < 0.01 in the step before the last, so the noise of that step stays in the picture.
    """

    makes: ClassVar[tuple[str, ...]] = ("images", "videos")

    type: str = "diffusers"
    model: str
    revision: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    call: dict[str, Any] = Field(default_factory=dict)
    lora: AttentionLora | None = AttentionLora()
    spacing: Literal["pipeline", "uniform"] = "pipeline"
    gradient_checkpointing: bool = False
    size: ModelSize | None = None

    @property
    def kernels(self) -> KernelFamily:
        return GaussianKernel

    def build(self, device: "torch.device", seed: int) -> "DiffusersPolicy":
        from flowgrpo.policies.diffusers._policy import DiffusersPolicy

        return DiffusersPolicy(self, device, seed)

    def build_sampler(self, device: "torch.device", trained: "Path | None") -> "PipelineSampler":
        from flowgrpo.policies.diffusers._policy import PipelineSampler

        sampler = PipelineSampler(self, device)
        if trained is not None:
            sampler.load(trained)
        return sampler

    def memory_bytes(self, states: int) -> dict[str, int]:
        from flowgrpo.policies.diffusers._memory import memory_bytes

        return memory_bytes(self, states)
