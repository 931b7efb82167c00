"""Policies: where to start, what the network predicts at a state, what a final state looks like."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from pydantic import PositiveInt, SerializeAsAny

from flowgrpo.sampling.kernels import KernelFamily
from flowgrpo.sampling.shape import Shape
from flowgrpo.section import Component, Section, component

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.policies.protocol import Policy, Sampler


class LoraAdapter(Section):
    """Low-rank adapters (peft) on the layers whose names end in one of `targets`."""

    rank: PositiveInt = 32
    alpha: PositiveInt = 64
    targets: tuple[str, ...]


class PolicyConfig(Component):
    """A policy before its weights are loaded. `steps` is S, the number of transitions of a training rollout."""

    steps: PositiveInt

    @property
    @abstractmethod
    def kernels(self) -> KernelFamily:
        """The family of kernels that moves its states."""

    @property
    def posed_states(self) -> int:
        """Network evaluations that score an outcome as a whole; 0 where the transitions that made it are scored."""
        return 0

    def complaint(self, shape: Shape) -> str | None:
        """Why the policy can't train on trees of this shape, or None."""
        return None

    @abstractmethod
    def build(self, device: "torch.device", seed: int) -> "Policy":
        """Load the weights and attach what is trained; `seed` keys the initialisation of new weights."""

    @abstractmethod
    def build_sampler(self, device: "torch.device", trained: "Path | None") -> "Sampler":
        """Load the weights, and those in a run's checkpoint `trained`, to generate only."""

    @abstractmethod
    def memory_bytes(self, states: int) -> dict[str, int]:
        """Estimated bytes by purpose for an update on `states` states at once; loads no weights."""


AnyPolicy = Annotated[SerializeAsAny[PolicyConfig], component(PolicyConfig, "flowgrpo.policies")]
