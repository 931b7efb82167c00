"""Any diffusers pipeline as a policy."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from flowgrpo.core.held import OBJECT
from flowgrpo.core.paths import locate
from flowgrpo.core.section import Section
from flowgrpo.policies import (
    Activations,
    Compiled,
    Cost,
    LoraAdapter,
    Memory,
    PolicyConfig,
    Recomputed,
    Work,
    needs_whole_weights,
)
from flowgrpo.policies.diffusers import _sizes as sizes
from flowgrpo.policies.diffusers._index import index_of
from flowgrpo.policies.diffusers._table import DIVIDED
from flowgrpo.sampling.kernels import GaussianKernel, KernelFamily
from flowgrpo.sampling.matching import Matching
from flowgrpo.sampling.shape import Shape

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.core.processes import Processes
    from flowgrpo.data.prompts import Prompt
    from flowgrpo.policies._sharded import Sharding
    from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler

DENOISERS = ("transformer", "unet", "transformer_2")
"""Names under which diffusers pipelines keep what is trained."""
REMEMBERED = 32
"""For how many batches of prompts a policy keeps what the encoders gave."""
COMPUTES = {
    "nf4": ("bf16", "fp16"),
    "int8": ("bf16", "fp16"),
    "int8_weight_only": ("bf16",),
    "float8_weight_only": ("bf16",),
}
"""The dtypes that quantised weights compute in."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def undivided(network: str) -> str | None:
    """Why processes can't divide the sequences of a network of this class, or None."""
    if network in DIVIDED:
        return None
    return f"{network} is not one of the networks whose sequences can be divided ({', '.join(sorted(DIVIDED))}); set it to 1"


class AttentionLora(LoraAdapter):
    """By default on the attention layers, as diffusers names them."""

    targets: tuple[str, ...] = ATTENTION


class Runtime(Section):
    """Memory and speed of a pipeline; what it computes stays the same, but for quantisation, and rounding.

    With `gradient_checkpointing` an update computes the activations of blocks again instead of keeping them; of every n-th block
    where it is a number n. With `offload_activations` those that are kept wait in main memory. With `offload` the encoders and
    the VAE do, and are on the device while they run; the denoiser stays there.
    `vae_slicing` decodes one sample at a time, `vae_tiling` in tiles that overlap. `quantisation` stores the frozen weights of
    the denoiser, and with `quantise_encoders` those of the text encoders, in fewer bits: `nf4` and `int8` through bitsandbytes
    (on a GPU), `int8_weight_only` and `float8_weight_only` through torchao. `attention` is a backend of diffusers' dispatcher:
    native, flash, xformers, ...; a denoiser that calls torch's attention itself (SD3, SDXL) has torch's kernels to choose from:
    _native_math, which keeps the scores of all pairs of tokens, _native_flash, _native_efficient and _native_cudnn.
    `compile` `blocks` compiles the denoiser's repeated blocks; a training does so by default on a GPU.
    """

    gradient_checkpointing: Recomputed = False
    offload_activations: bool = False
    offload: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    quantisation: Literal["none", "nf4", "int8", "int8_weight_only", "float8_weight_only"] = "none"
    quantise_encoders: bool = False
    attention: str | None = None
    compile: Compiled | None = None

    @model_validator(mode="after")
    def _encoders_follow(self) -> Self:
        if self.quantise_encoders and self.quantisation == "none":
            raise ValueError("quantise_encoders stores the encoders as the denoiser is stored; set quantisation too")
        return self


class DenoiserSize(Section):
    """Of one denoiser of `count`. `tokens` of one sample go through its `layers` blocks, text included, with `channels` values of
    the latents each, and hold `activations`.

    Where it is `guided`, a guidance_scale above 1 makes two rows of a state; it is not where the scale is an input (FLUX).
    """

    parameters: PositiveInt
    layers: PositiveInt
    width: PositiveInt
    tokens: PositiveInt
    channels: PositiveInt = 64
    count: PositiveInt = 1
    guided: bool = True
    activations: Activations = Activations()


class EncoderSize(Section):
    """Of all encoders; `tokens` embeddings of `width` come out for a prompt."""

    parameters: NonNegativeInt
    width: NonNegativeInt
    tokens: NonNegativeInt


class VaeSize(Section):
    """`width` channels are the most that decoding has at full resolution, for `frames` frames at once, what is kept of those
    before included. A tile, and a picture where the call gives no height, has `side` pixels."""

    parameters: NonNegativeInt
    width: NonNegativeInt
    frames: PositiveInt = 1
    side: PositiveInt = 1024


class ModelSize(Section):
    """What `flowgrpo plan` needs to know of a model that is not on this disk."""

    denoiser: DenoiserSize
    encoders: EncoderSize
    vae: VaeSize


class DiffusersConfig(PolicyConfig):
    """`model`: a pipeline folder, `asset:NAME`, or a hub id. `call` goes to every pipeline call as it is; of `sizes` in it, a
    list of [height, width], each prompt's row draws one. A row may have a `negative_prompt` of its own.

    `dtype` is what the frozen weights are stored and computed in; trained weights are float32, and adapters compute in the
    `dtype`. `lora: null` trains all weights of the denoiser. `size` is only for `flowgrpo plan`; a model on this disk needs none.
    `spacing` `uniform` gives the call sigmas 1, 1 - 1/S, .. 1/S, before the scheduler's shift, instead of the pipeline's own.
    Some pipelines (SD3) go to sigma < 0.01 in the step before the last, so the noise of that step stays in the picture.
    With `guidance_gradient` `conditional`, predictions that guidance moves away from get no gradient and keep no graph; some code
    that builds on Flow-GRPO's detaches them, its own does not.
    `matching` trains finished samples that are noised anew, instead of the steps that made them.
    """

    makes: ClassVar[tuple[str, ...]] = ("images", "videos", "latents")
    switches: ClassVar[dict[str, Cost]] = {
        "policy.runtime.vae_slicing=true": "nothing",
        "policy.runtime.offload=true": "time",
        "policy.runtime.gradient_checkpointing=4": "time",
        "policy.runtime.gradient_checkpointing=2": "time",
        "policy.runtime.gradient_checkpointing=true": "time",
        "policy.runtime.offload_activations=true": "time",
        "policy.runtime.vae_tiling=true": "exactness",
        "policy.runtime.quantisation=int8_weight_only": "exactness",
        "policy.runtime.quantisation=nf4": "exactness",
        "policy.runtime.quantise_encoders=true": "exactness",
    }
    """A block of width W is computed again by 24 W^2 operations a token, and keeps 47 W bytes, which go to main memory and back:
    0.6 and 6 microseconds for W = 1536, at an assumed 100 TFLOP/s and 25 GB/s (PCIe 4.0). The inputs that are left where all
    blocks are computed again take 0.3, so they are moved last."""

    model: str
    revision: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    call: dict[str, Any] = Field(default_factory=dict)
    lora: AttentionLora | None = AttentionLora()
    spacing: Literal["pipeline", "uniform"] = "pipeline"
    guidance_gradient: Literal["full", "conditional"] = "full"
    matching: Matching | None = None
    runtime: Runtime = Runtime()
    size: ModelSize | None = None

    @model_validator(mode="after")
    def _can_be_quantised(self) -> Self:
        kind = self.runtime.quantisation
        if kind != "none" and self.lora is None:
            raise ValueError(f"runtime.quantisation '{kind}' freezes the weights that lora: null trains; set lora")
        if kind != "none" and self.model.startswith(OBJECT):
            raise ValueError(f"runtime.quantisation '{kind}' is for weights that are loaded from files; load the pipeline so")
        if kind != "none" and self.dtype not in COMPUTES[kind]:
            raise ValueError(f"runtime.quantisation '{kind}' does not compute in {self.dtype}; set dtype to bf16")
        return self

    @model_validator(mode="after")
    def _sizes_can_be_meant(self) -> Self:
        if complaint := sizes.complaint(self.call):
            raise ValueError(complaint)
        return self

    @property
    def kernels(self) -> KernelFamily:
        return GaussianKernel

    @property
    def posed_states(self) -> int:
        return self.matching.levels.count if self.matching else 0

    @property
    def posed_together(self) -> int:
        return 1

    @property
    def log_ratio_unit(self) -> float:
        return self.matching.log_ratio_unit if self.matching else super().log_ratio_unit

    def complaint(self, shape: Shape) -> str | None:
        if self.runtime.offload_activations and any(shape.nodes[i].backward for i in shape.trained):
            return (
                "policy.runtime.offload_activations keeps activations, and a plan that goes back through its steps computes them "
                "again; set it to false"
            )
        if self.matching is None:
            trained = (shape.nodes[i].kernel for i in shape.trained if not shape.nodes[i].backward)
            if kernel := next((kernel for kernel in trained if kernel and not kernel.stochastic), None):
                return f"kernel '{kernel.type}' adds no noise: its steps can't be trained; set policy.matching to train samples"
            return None
        if any(shape.children[i] for i in shape.trained):
            return "policy.matching trains finished samples, not the steps that made them: set rollout.plan.type to outcomes"
        return self.matching.complaint(self.steps)

    @property
    def keeps_against(self) -> bool:
        return self.guidance_gradient == "conditional" and self.matching is None

    def joining_complaint(self) -> str | None:
        if self.matching:
            return "policy.matching trains finished samples, which have no steps"
        if self.guidance_gradient == "conditional":
            return "policy.guidance_gradient 'conditional' is found out step by step"
        return None

    def batch_key(self, prompt: "Prompt") -> Hashable:
        return sizes.size_of(self.call, prompt)

    def check(self, prompts: "Sequence[Prompt]") -> list[str] | None:
        from flowgrpo.policies.diffusers._rows import check

        return check(self, prompts)

    def build(self, device: "torch.device", seed: int) -> "DiffusersPolicy":
        from flowgrpo.policies.diffusers._policy import DiffusersPolicy

        return DiffusersPolicy(self, device, seed)

    def unshardable(self) -> str | None:
        if self.runtime.quantisation != "none":
            return f"policy.runtime.quantisation '{self.runtime.quantisation}' leaves weights that can't be shared out"
        return needs_whole_weights(self.dtype, self.runtime.offload_activations)

    def build_sharded(self, device: "torch.device", seed: int, sharding: "Sharding") -> "DiffusersPolicy":
        from flowgrpo.policies.diffusers._policy import DiffusersPolicy

        return DiffusersPolicy(self, device, seed, sharding)

    def unsplittable(self) -> str | None:
        if self.runtime.compile == "blocks":
            return "policy.runtime.compile 'blocks' compiles no block whose attention goes over several processes; set it to off"
        classes = index_of(locate(self.model))
        kinds = [classes[name][1] for name in DENOISERS if name in classes]
        return next((undivided(kind) for kind in kinds if kind and undivided(kind)), None)

    def build_split(self, device: "torch.device", seed: int, processes: "Processes") -> "DiffusersPolicy":
        from flowgrpo.policies.diffusers._policy import DiffusersPolicy
        from flowgrpo.policies.diffusers._split import Splitting

        runtime = self.runtime.model_copy(update={"compile": "off"})
        uncompiled = self.model_copy(update={"runtime": runtime})
        return DiffusersPolicy(uncompiled, device, seed, splitting=Splitting(processes))

    def build_sampler(self, device: "torch.device", trained: "Path | None") -> "PipelineSampler":
        from flowgrpo.policies.diffusers._policy import PipelineSampler

        sampler = PipelineSampler(self, device)
        if trained is not None:
            sampler.load(trained)
        return sampler

    def memory(self, work: Work) -> Memory:
        from flowgrpo.policies.diffusers._memory import memory

        return memory(self, work)

    def copied(self) -> int:
        return 0 if self.lora else self.memory(Work(states=1, samples=1))["load"]["denoiser"]

    def measured(self) -> Self:
        from flowgrpo.policies.diffusers._measure import measured_size

        return self.model_copy(update={"size": measured_size(self)})
