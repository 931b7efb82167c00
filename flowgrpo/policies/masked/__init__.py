"""A masked-diffusion language model as a policy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, SerializeAsAny

from flowgrpo.core.section import Section, component
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
from flowgrpo.sampling.kernels import KernelFamily
from flowgrpo.sampling.kernels._unmasking import UnmaskingKernel
from flowgrpo.sampling.likelihood import AnyLikelihood
from flowgrpo.sampling.likelihood.trajectory import Trajectory
from flowgrpo.sampling.shape import Shape

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.data.prompts import Prompt
    from flowgrpo.policies._sharded import Sharding
    from flowgrpo.policies.masked._policy import MaskedPolicy, MaskedSampler

AnyUnmasking = Annotated[SerializeAsAny[UnmaskingKernel], component(UnmaskingKernel)]


class LanguageSize(Section):
    """`layers` blocks of `width` with their `activations`, and a head for so many `ids`."""

    layers: PositiveInt
    width: PositiveInt
    ids: PositiveInt
    activations: Activations = Activations()


class MaskedConfig(PolicyConfig):
    """`model`: a folder that transformers loads, that of a saved LLaDA2Pipeline, `asset:NAME`, or a hub id; anything that maps
    ids to logits. Or `object:NAME`: a model and its tokenizer that this process holds.

    A canvas has room for `prompt_length` ids of the prompt and `length` ids to fill. The prompt goes through the tokenizer's chat
    template where `chat` says so. `mask_id` is the tokenizer's own when null. `shift`: row i of the logits predicts position
    i + 1 (Dream, DiffuCoder), rather than i (LLaDA). `window`: a step sees nothing behind the block that it works on, as models
    want that were trained with attention by blocks (LLaDA2). Ids in `forbidden` are never emitted, besides the mask, padding and
    what the tokenizer does not know. `guidance_scale` w > 1 adds (w - 1)(z - z without the prompt) to the logits.
    `likelihood` says how an outcome's log-prob is estimated; `sampler` is how held-out prompts are answered.
    `trust_remote_code` runs code that comes with the model: only then are models loaded that transformers itself does not know.
    """

    makes: ClassVar[tuple[str, ...]] = ("texts",)
    switches: ClassVar[dict[str, Cost]] = {
        **{f"policy.gradient_checkpointing={every}": "time" for every in (4, 2, "true")},
        "policy.offload_activations=true": "time",
    }

    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    prompt_length: PositiveInt
    length: PositiveInt
    chat: bool = False
    mask_id: NonNegativeInt | None = None
    shift: bool = False
    window: bool = False
    forbidden: tuple[NonNegativeInt, ...] = ()
    guidance_scale: NonNegativeFloat = 1.0
    likelihood: AnyLikelihood = Trajectory()
    sampler: AnyUnmasking
    lora: LoraAdapter | None = None
    gradient_checkpointing: Recomputed = False
    offload_activations: bool = False
    """What an update keeps of activations waits in main memory."""
    compile: Compiled = "off"
    """`blocks`: the model's layers are compiled, once for all of a class."""
    parameters: PositiveInt | None = None
    """Of a model that is not on this disk, for `flowgrpo plan`."""
    size: LanguageSize | None = None
    """Likewise; without it activations are left out."""

    @property
    def kernels(self) -> KernelFamily:
        return UnmaskingKernel

    @property
    def posed_states(self) -> int:
        return self.likelihood.states

    @property
    def chooses_ids(self) -> bool:
        return self.likelihood.level == "decision"

    @property
    def takes_answers(self) -> bool:
        return not self.window

    def complaint(self, shape: Shape) -> str | None:
        kernels = {node.kernel for node in shape.nodes if isinstance(node.kernel, UnmaskingKernel)} | {self.sampler}
        if complaint := next(filter(None, (kernel.needs(self.steps, self.length) for kernel in kernels)), None):
            return complaint
        if complaint := self.likelihood.complaint(self.length):
            return f"policy.{complaint}"
        if self.window and self.likelihood.states:
            return "policy.window: a step sees no later block, so outcomes can't be scored as wholes; use likelihood trajectory"
        if self.window and len(blocks := {kernel.block_length for kernel in kernels}) > 1:
            return f"policy.window: rollouts and policy.sampler must have one kernel.block_length, not {sorted(map(str, blocks))}"
        trained = (shape.nodes[i].kernel for i in shape.trained)
        if kernel := next((kernel for kernel in trained if kernel and not kernel.stochastic), None):
            return f"kernel '{kernel.type}' is deterministic: all answers to a prompt would be the same"
        if self.likelihood.states and any(shape.children[i] for i in shape.trained):
            return f"policy.likelihood '{self.likelihood.type}' scores outcomes as wholes: set rollout.plan.type to outcomes"
        if not self.likelihood.states and any(
            node.kernel and not node.trained and node.kernel.stochastic for node in shape.nodes
        ):
            return "policy.likelihood 'trajectory' scores every step: plan 'outcomes' trains the last one only; use plan 'all'"
        return None

    def sampling_complaint(self, steps: int) -> str | None:
        complaint = self.sampler.needs(steps, self.length)
        return f"policy.sampler: {complaint}" if complaint else None

    def check(self, prompts: "Sequence[Prompt]") -> list[str] | None:
        from flowgrpo.policies.masked._tokens import check

        return check(self, prompts)

    def build(self, device: "torch.device", seed: int) -> "MaskedPolicy":
        from flowgrpo.policies.masked._policy import MaskedPolicy

        return MaskedPolicy(self, device, seed)

    def unshardable(self) -> str | None:
        return needs_whole_weights(self.dtype, self.offload_activations)

    def build_sharded(self, device: "torch.device", seed: int, sharding: "Sharding") -> "MaskedPolicy":
        from flowgrpo.policies.masked._policy import MaskedPolicy

        return MaskedPolicy(self, device, seed, sharding)

    def build_sampler(self, device: "torch.device", trained: "Path | None") -> "MaskedSampler":
        from flowgrpo.policies.masked._policy import MaskedSampler

        return MaskedSampler(self, device, trained)

    def memory(self, work: Work) -> Memory:
        from flowgrpo.policies.masked._memory import memory

        return memory(self, work)

    def copied(self) -> int:
        return 0 if self.lora else self.memory(Work(states=1, samples=1))["load"]["weights"]

    def measured(self) -> Self:
        from flowgrpo.policies.masked._measure import measured_size

        return self.model_copy(update={"size": measured_size(self)})
