"""Policies: where to start, what the network predicts at a state, what a final state looks like."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from pydantic import PositiveInt, SerializeAsAny

from flowgrpo.section import Component, component

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.policies.protocol import Policy, Sampler


class PolicyConfig(Component):
    """A policy before its weights are loaded. `steps` is S, the number of transitions of a training rollout."""

    steps: PositiveInt

    @abstractmethod
    def build(self, device: "torch.device", seed: int) -> "Policy":
        """Load the weights and attach what is trained; `seed` keys the initialisation of new weights."""

    @abstractmethod
    def build_sampler(self, device: "torch.device", lora: "Path | None") -> "Sampler":
        """Load the weights, and a run's LoRA, to generate only."""

    @abstractmethod
    def memory_bytes(self, states: int) -> dict[str, int]:
        """Estimated bytes by purpose for an update on `states` states at once; loads no weights."""


AnyPolicy = Annotated[SerializeAsAny[PolicyConfig], component(PolicyConfig, "flowgrpo.policies")]
