"""A schedule that is drawn: every unmasking step first draws what it is set to, then the ids (Co-GRPO, arXiv 2512.22288).

Shapes: B states, C transitions, S steps, K = 4 settings, H logits a state (1, or 2 where guidance is drawn: with the prompt and
without), L positions to fill, V ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, pi
from typing import Self

import torch
from torch import Tensor

from flowgrpo.core.keys import Noise
from flowgrpo.sampling.canvas import SETTINGS
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import Settings, UnmaskingKernel
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw, mask_ratio, quota

NAMES = ("mask_ratio", "temperature", "order_temperature", "guidance_scale")
"""The settings of a step, in the order of K."""


def hand_made(kernel: UnmaskingKernel, steps: int, length: int, guidance_scale: float) -> Tensor:
    """[S, K] float64: what a kernel sets its steps to.

    A mask ratio lies in the middle of those that leave as many positions of the block masked, and is 0 where a block ends.
    """
    per_block, size = steps // kernel.blocks(length), length // kernel.blocks(length)
    rows, masked = [], torch.tensor([size])
    for step in range(steps):
        move, one = Move(kernel, step, step + 1), torch.ones(1, dtype=torch.float64)
        masked = masked if step % per_block else torch.tensor([size])
        order = kernel.order_temperature_at(step / max(1, steps - 1))
        ratio = mask_ratio(kernel, move, steps, length)
        settings = Settings(None if ratio is None else ratio * one, kernel.temperature * one, order * one)
        masked = masked - quota(kernel, move, masked, settings, steps, length)
        rows.append([(float(masked) + 0.5) / size if masked else 0.0, kernel.temperature, order, guidance_scale])
    return torch.tensor(rows, dtype=torch.float64)


def effective(values: Tensor) -> Tensor:
    """Booleans like `values` [..., K]: the settings that change anything when they change.

    Not those of a step that sets all there is, nor a temperature of 0, nor a guidance scale of 1.
    """
    last = values[..., 0] == 0.0
    return torch.stack([~last, values[..., 1] > 0.0, ~last & (values[..., 2] > 0.0), values[..., 3] != 1.0], dim=-1)


def moved(values: Tensor, offsets: Tensor) -> Tensor:
    """Settings [..., K] with offsets added to logit(mask ratio), log(temperature), log(order temperature) and
    log(guidance scale - 1)."""
    factors = offsets.exp()
    odds = values[..., 0] / (1.0 - values[..., 0]) * factors[..., 0]
    guidance = 1.0 + (values[..., 3] - 1.0) * factors[..., 3]
    return torch.stack([odds / (1.0 + odds), values[..., 1] * factors[..., 1], values[..., 2] * factors[..., 2], guidance], -1)


def pack(logits: Tensor, mean: Tensor) -> Tensor:
    """Logits [B, H, L, V] and means [K] as one prediction [B, H L V + K]."""
    return torch.cat([logits.flatten(1), mean.expand(len(logits), -1)], dim=1)


@dataclass(frozen=True)
class ScheduledLaw:
    """`base` with settings of its own for every transition: offsets from `hand_made` [C, K], drawn from N(mean, std^2) where
    `learned` [C, K] is 1.

    A transition makes L + K decisions, the ids and then the settings. The ids' log-probs are under the settings that were drawn,
    the settings' are those of the offsets, so no Jacobian enters a ratio.
    """

    base: UnmaskingLaw
    hand_made: Tensor
    learned: Tensor
    std: float

    @property
    def tau(self) -> Tensor:
        return self.base.tau

    dt = g = tau

    def select(self, rows: Tensor) -> Self:
        return replace(self, base=self.base.select(rows), hand_made=self.hand_made[rows], learned=self.learned[rows])

    def history(self, x: Tensor, prediction: Tensor) -> Tensor:
        return self.base.history(x, prediction)

    def sample(self, x: Tensor, prediction: Tensor, noises: Sequence[Noise], histories: Sequence[Tensor | None]) -> Tensor:
        _, mean = self._unpack(prediction)
        draws = torch.stack([_of_schedule(noise).draw(torch.Size((len(NAMES),)), torch.float64) for noise in noises])
        offsets = (mean + self.std * draws.to(mean.device)) * self.learned
        x_next = self._under(offsets).sample(x, self._guided(prediction, offsets), noises, histories)
        x_next[:, SETTINGS, : len(NAMES)] = offsets
        return x_next

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        offsets, (_, mean) = self._offsets(x_next), self._unpack(prediction)
        ids = self._under(offsets).log_prob(x, self._guided(prediction, offsets), x_next)
        settings = -0.5 * ((offsets - mean) / self.std).square() - log(self.std) - 0.5 * log(2.0 * pi)
        return torch.cat([ids, (settings * self.learned).float()], dim=1)

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        offsets, (_, mean), (_, other_mean) = self._offsets(x_next), self._unpack(prediction), self._unpack(other)
        predictions = self._guided(prediction, offsets), self._guided(other, offsets)
        ids = self._under(offsets).kl(x, *predictions, x_next)
        return torch.cat([ids, (0.5 * ((mean - other_mean) / self.std).square() * self.learned).float()], dim=1)

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        return torch.cat([self.base.decisions(x_next, outcome), self.learned.float()], dim=1)

    def confidence(self, x_next: Tensor) -> Tensor:
        return torch.cat([self.base.confidence(x_next), torch.ones_like(self.learned, dtype=torch.float32)], dim=1)

    def _offsets(self, x_next: Tensor) -> Tensor:
        return x_next[:, SETTINGS, : len(NAMES)]

    def _under(self, offsets: Tensor) -> UnmaskingLaw:
        ratio, temperature, order_temperature, _ = moved(self.hand_made, offsets).unbind(1)
        return replace(self.base, settings=Settings(ratio, temperature, order_temperature))

    def _guided(self, prediction: Tensor, offsets: Tensor) -> Tensor:
        """Logits [C, L, V]."""
        logits, _ = self._unpack(prediction)
        if logits.shape[1] == 1:
            return logits[:, 0]
        scale = moved(self.hand_made, offsets)[:, 3, None, None].float()
        return logits[:, 1] + scale * (logits[:, 0] - logits[:, 1])

    def _unpack(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [C, H, L, V], means [C, K])."""
        logits, mean = prediction[:, : -len(NAMES)], prediction[:, -len(NAMES) :]
        return logits.view(len(logits), -1, self.base.length, self.base.vocabulary.size), mean


def _of_schedule(noise: Noise) -> Noise:
    return Noise((*noise.key, "schedule"), noise.common and (*noise.common, "schedule"), noise.correlation)
