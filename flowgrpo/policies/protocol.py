"""The protocols that the rollout and the trainer know; neither asks what family a policy is of.

Shapes: B states, C transitions of D decisions each (a Gaussian step is one decision, an unmasking step one per token that it
sets). States and predictions are tensors whose first dimension is the batch.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from flowgrpo.core.keys import Key, Noise
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Latents, Samples
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.likelihood import Likelihood


class Law(Protocol):
    """How C transitions are scored. Log-probs and KL share one unit, the policy's.

    `tau`, `dt` and `g` are [C]: noise scale, fall of the noise level, sensitivity of the mean to the prediction; 1 where a law
    has no such thing.
    """

    @property
    def tau(self) -> Tensor: ...
    @property
    def dt(self) -> Tensor: ...
    @property
    def g(self) -> Tensor: ...

    def select(self, rows: Tensor) -> Self: ...
    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        """[C, D]"""
        ...

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        """[C, D]: KL of the law under `prediction` from that under `other`, decision by decision."""
        ...

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        """[C, D]: 1 for decisions that were made and that the outcome depends on, else 0."""
        ...

    def entropy(self, prediction: Tensor) -> Tensor:
        """[C, D] in [0, 1]: the entropy of what a decision is drawn from, over the largest possible."""
        ...

    def confidence(self, x_next: Tensor) -> Tensor:
        """[C, D]: how likely the sampler's model, at temperature 1, found each id that was drawn."""
        ...

    def error(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        """[C, ...]: the finished sample as it is predicted from one that was noised anew, less the sample."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """A law whose decisions are ids."""

    def choices(self, x_next: Tensor) -> Tensor:
        """[C, D]: the ids that were chosen, where any was."""
        ...

    def log_probs(self, prediction: Tensor) -> Tensor:
        """[C, D, V]: what a decision chooses from; -inf for what can't be chosen."""
        ...


class StepLaw(Law, Protocol):
    """How they are made."""

    def history(self, x: Tensor, prediction: Tensor) -> Tensor:
        """What a multistep kernel remembers of states."""
        ...

    def sample(self, x: Tensor, prediction: Tensor, noises: Sequence[Noise], histories: Sequence[Tensor | None]) -> Tensor: ...


@dataclass(frozen=True)
class Posed:
    """Outcomes as transitions to score at once: `states` [B, ...] to evaluate at `step`, the rows `parent` [C] or [C, K] that
    each outcome is scored at, and the law that puts the predictions together. `rows` [C] are the outcomes, None stands for all;
    `share` is what these transitions are of all that score them."""

    states: Tensor
    parent: Tensor
    law: Law
    rows: list[int] | None = None
    step: int = 0
    share: float = 1.0


class Predicts(Protocol):
    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """The network's output at `states` [B, ...], guidance applied."""
        ...


class Posing(Predicts, Protocol):
    """Scores an outcome at states of its own making instead of those that it came from."""

    @property
    def together(self) -> int:
        """States of an outcome that are evaluated at once."""
        ...

    def __call__(
        self, outcomes: Tensor, prompts: Sequence[Prompt], keys: Sequence[Key], groups: Sequence[Key]
    ) -> Iterable[Posed]:
        """Outcomes [C, ...] of these prompts; what is drawn for scoring them is drawn now, by the keys of each and of its group,
        and stays with them."""
        ...


@runtime_checkable
class Joining(Protocol):
    """A policy whose network takes states of different steps at once."""

    def predict_together(self, asked: Sequence[tuple[Tensor, Sequence[Prompt], int]]) -> list[Tensor]:
        """What `predict` says of each (states, prompts, step), but for the rounding of larger batches. Errors: UserError where
        the network can't."""
        ...


@runtime_checkable
class Guided(Protocol):
    """A policy whose guidance moves away from predictions that have no gradient."""

    def predict_both(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> tuple[Tensor, Tensor | None]:
        """What `predict` says, and the K predictions of each state [B, K, ...] that guidance moves away from; None where there
        are none, or none that can be told apart."""
        ...

    def predict_from(self, states: Tensor, prompts: Sequence[Prompt], step: int, against: Tensor) -> Tensor:
        """What `predict` says, bit for bit while weights are the same, with those given instead of evaluated."""
        ...


class Sampler(Protocol):
    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int, latents: bool = False) -> Samples:
        """What a user of the model gets: its own sampler, untouched, one seed per sample; with the `latents` that it
        decodes, where the policy makes such."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """A policy whose network shows what it computes on the way."""

    def require_watchable(self) -> None:
        """Errors: UserError where the network has no place to watch."""
        ...

    def watch(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> tuple[Tensor, Tensor]:
        """What `predict` says, bit for bit, and the features [B, F] of the states, float64, as many at all states of a
        step. No evaluation more."""
        ...


@runtime_checkable
class Encoding(Protocol):
    """A policy whose outcomes can be pictures from elsewhere."""

    def picture_size(self, prompts: Sequence[Prompt]) -> tuple[int, int]:
        """Height and width of what is made for these prompts."""
        ...

    def encode(self, pictures: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Outcomes [B, ...] that decode to these pictures [B, 3, H, W] in [0, 1]. Errors: UserError for pictures of another size,
        and where they would not come back."""
        ...


@runtime_checkable
class Answering(Protocol):
    """A policy whose outcomes can be written down."""

    def answers(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """Outcomes [C, ...] that answer these prompts with these texts. Errors: UserError for a text that can't be an outcome."""
        ...

    def posing_by(self, likelihood: Likelihood) -> Posing:
        """How outcomes are scored as wholes by this likelihood. Errors: UserError where they can't be."""
        ...


class Policy(Predicts, Sampler, Protocol):
    """`predict` is the same function in the rollout (no grad) and the update (grad), so the on-policy ratio is 1."""

    @property
    def device(self) -> torch.device: ...

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients underflow without a scaled loss (float16)."""
        ...

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to the type that the network computes in."""
        ...

    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        """Initial states [B, ...], one independent draw per key. They hold what a prompt's answer has `begun` with."""
        ...

    def law(self, moves: Sequence[Move], prompts: Sequence[Prompt]) -> StepLaw:
        """Of moves whose states answer these prompts, all with one `batch_key`."""
        ...

    @property
    def posing(self) -> Posing | None:
        """How outcomes are scored as wholes; None: they are scored by the transitions that made them."""
        ...

    def decode(self, states: Tensor, prompts: Sequence[Prompt]) -> Samples:
        """Final states as samples; pixels of latents with the gradient, where the states have one."""
        ...

    def latents(self, states: Tensor, prompts: Sequence[Prompt], levels: Sequence[int]) -> Latents | None:
        """States of these levels (0 .. S) as rewards see them; None where it makes none."""
        ...

    def trainable(self) -> dict[str, torch.nn.Parameter]: ...

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the policy is the one before training."""
        ...

    def export(self) -> Callable[[Path], None]:
        """What was trained, as it is now: the way to write it to a folder, whatever is trained meanwhile, in the format that the
        model's own library loads. Where weights are shared out, all processes ask for it, and the main one writes."""
        ...


def trained_by(policy: Policy) -> Predicts:
    """What is asked about trained transitions, in the rollout and the update alike."""
    return policy.posing or policy
