"""Policies: where to start, what the network predicts at a state, what a final state looks like."""

import warnings
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SerializeAsAny, model_validator

from flowgrpo.core.errors import UserError
from flowgrpo.core.moved import GOES
from flowgrpo.core.section import Component, Section, component, or_else
from flowgrpo.sampling.kernels import KernelFamily
from flowgrpo.sampling.shape import Shape

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.core.processes import Processes
    from flowgrpo.data.prompts import Prompt
    from flowgrpo.policies._sharded import Sharding
    from flowgrpo.policies.protocol import Policy, Sampler


Recomputed = Annotated[bool | PositiveInt, or_else("must be true, false, or a number n: every n-th block is computed again")]
Cost = Literal["nothing", "time", "exactness"]
Compile = Literal["off", "blocks"]


def _words(value: Any) -> Any:
    """YAML reads `off` as false."""
    return {False: "off", True: "blocks"}[value] if isinstance(value, bool) else value


Compiled = Annotated[Compile, BeforeValidator(_words)]
Memory = dict[str, dict[str, int]]
"""Bytes on the device by phase and purpose."""


def needs_whole_weights(dtype: str, offload_activations: bool) -> str | None:
    """Why a process needs all weights, or None."""
    if dtype == "fp16":
        return "policy.dtype fp16 scales its loss, which goes with whole weights only; take bf16"
    if offload_activations:
        return "offload_activations would copy what comes from other processes; take gradient_checkpointing in its place"
    return None


def autocasts(dtype: str, whole: bool) -> bool:
    """Whether operations choose their types: in fp16, which is not safe for all of them, and in bf16 where all weights are
    trained, which are float32. A network in bf16 with adapters computes as it does for its users."""
    return dtype == "fp16" or (dtype == "bf16" and whole)


@dataclass(frozen=True)
class Work:
    """What a process has on its device: `states` in one evaluation and `samples` in one decode; over an update it keeps
    `latents`, of which so many are `predictions`, and `batches` of prompts. The trained weights have `averages` of these names,
    and an optimizer with moments of `moment_bits`; `sums`: their gradients add up in float64; `referenced`: they are compared to
    those before training. So many `cards` share the weights of blocks out, and a `team` of so many divides the sequences. The
    rollout keeps the graphs of `graphed` states."""

    states: int
    samples: int
    latents: int = 0
    predictions: int = 0
    batches: int = 1
    averages: tuple[str, ...] = ()
    moment_bits: int = 32
    sums: bool = False
    referenced: bool = False
    cards: int = 1
    team: int = 1
    graphed: int = 0


OF_BITS = {16: "fp16", 32: "fp32"}


class Activations(Section):
    """Bytes that a network of L blocks holds per token and unit of width on a GPU, in this `dtype`.

    A block keeps `lora` for its backward pass where adapters are trained, `whole` where all weights are, and `checkpointed` where
    it is computed again; `passing` are alive at once where nothing is kept. The defaults are those of a transformer of diffusers
    or transformers in the middle; they are between 26 and 78, 56 and 107, 24 and 87 (`python tools/plan_memory.py`).
    """

    lora: PositiveFloat = 47.0
    whole: PositiveFloat = 77.0
    passing: PositiveFloat = 34.0
    checkpointed: PositiveFloat = 2.1
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"

    @model_validator(mode="before")
    @classmethod
    def _of_bits(cls, data: Any) -> Any:
        """What was counted in so many `bits` had the casts of autocast, as fp16 has."""
        if not (isinstance(data, dict) and data.get("bits") in OF_BITS):
            return data
        bits, dtype = data["bits"], OF_BITS[data["bits"]]
        warnings.warn(f"bits: {bits} is now dtype: {dtype}; the old name goes with version {GOES}", FutureWarning, stacklevel=2)
        return {**{key: value for key, value in data.items() if key != "bits"}, "dtype": dtype}


class LoraAdapter(Section):
    """Low-rank adapters (peft) on the layers whose names end in one of `targets`."""

    rank: Annotated[int, Field(gt=0, le=65_536)] = 32
    alpha: PositiveInt = 64
    targets: tuple[str, ...]


class PolicyConfig(Component):
    """A policy before its weights are loaded. `steps` is S, the number of transitions of a training rollout.

    `makes` is of which kinds its samples can be. `switches` are overrides of the config that save memory, and what they cost.
    """

    makes: ClassVar[tuple[str, ...]] = ("images", "videos", "texts")
    switches: ClassVar[dict[str, Cost]] = {}

    steps: Annotated[int, Field(gt=0, le=100_000)]

    @property
    @abstractmethod
    def kernels(self) -> KernelFamily:
        """The family of kernels that moves its states."""

    @property
    def posed_states(self) -> int:
        """Network evaluations that score an outcome as a whole; 0 where the transitions that made it are scored."""
        return 0

    @property
    def posed_together(self) -> int:
        """How many of them are made at once."""
        return self.posed_states

    @property
    def log_ratio_unit(self) -> float:
        """A log-ratio that is neither large nor small."""
        return self.kernels.log_ratio_unit

    @property
    def chooses_ids(self) -> bool:
        """Whether each decision is one id, so that the laws are `Choosing`."""
        return False

    @property
    def takes_answers(self) -> bool:
        """Whether outcomes can be given as texts: the policy is `Answering`, and begins answers as a prompt's `begun` says."""
        return False

    @property
    def keeps_against(self) -> bool:
        """Whether a rollout keeps what guidance moves away from at trained states (`protocol.Guided`)."""
        return False

    def joining_complaint(self) -> str | None:
        """Why the policy can't evaluate states of different steps together (`protocol.Joining`), or None."""
        return f"policy '{self.type}' evaluates the states of one step at a time"

    def complaint(self, shape: Shape) -> str | None:
        """Why the policy can't train on trees of this shape, all of its own kernels, or None."""
        return None

    def refusal(self, shape: Shape) -> str | None:
        """Why the policy can't train on trees of this shape, whatever their kernels, or None."""
        foreign = (node.kernel for node in shape.nodes if node.kernel and not isinstance(node.kernel, self.kernels))
        if kernel := next(foreign, None):
            return f"kernel '{kernel.type}' can't move the states of policy '{self.type}'"
        return self.complaint(shape)

    def sampling_complaint(self, steps: int) -> str | None:
        """Why the policy's own sampler can't take this many steps, or None."""
        return None

    def batch_key(self, prompt: "Prompt") -> Hashable:
        """Prompts with the same key may share a batch: what is made of them has the same shape."""
        return None

    def check(self, prompts: "Sequence[Prompt]") -> list[str] | None:
        """What the policy does to prompts that a user should know, such as cutting long ones. Loads no weights.

        None where that can't be known yet, since the model's files are not on this disk. Errors: UserError, with the row, for
        a prompt that the policy can't take.
        """
        return []

    @abstractmethod
    def build(self, device: "torch.device", seed: int) -> "Policy":
        """Load the weights and attach what is trained; `seed` keys the initialisation of new weights."""

    def unshardable(self) -> str | None:
        """Why the weights can't be shared out over processes, or None."""
        return f"policy '{self.type}' can't share its weights out"

    def build_sharded(self, device: "torch.device", seed: int, sharding: "Sharding") -> "Policy":
        """As `build`, with the blocks of its networks shared out before they come to the device. Exports are of all processes
        together then."""
        raise AssertionError(self.unshardable())

    def unsplittable(self) -> str | None:
        """Why a team of processes can't compute a sequence together, or None."""
        return f"policy '{self.type}' has no sequence that processes could divide; set it to 1"

    def build_split(self, device: "torch.device", seed: int, processes: "Processes") -> "Policy":
        """As `build`, for a team of these processes: each computes its own part of a sequence, and all have the prediction."""
        raise AssertionError(self.unsplittable())

    @abstractmethod
    def build_sampler(self, device: "torch.device", trained: "Path | None") -> "Sampler":
        """Load the weights, and those in a run's checkpoint `trained`, to generate only."""

    @abstractmethod
    def memory(self, work: Work) -> Memory:
        """Estimated; loads no weights."""

    def copied(self) -> int:
        """Bytes in main memory of a copy of the weights before training; 0 where adapters are trained, which need none."""
        return 0

    def measured(self) -> Self:
        """The same, with what `memory` estimates from counted on the model's own class; loads no weights.

        Errors: UserError where that can't be done.
        """
        raise UserError(f"policy '{self.type}' has no measure of its model; leave --measure out")


AnyPolicy = Annotated[SerializeAsAny[PolicyConfig], component(PolicyConfig)]
