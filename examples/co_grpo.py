"""Co-GRPO (arXiv 2512.22288) as a policy of one's own: a masked image model whose schedule is trained too.

Every step first draws what it is set to, then the ids. The settings are how much stays masked, two temperatures and the guidance
scale; each is drawn around a mean of its own, which begins at the hand-made value and is trained on the same rewards. (The paper
trains model and schedule in turn, and its means depend on the state; here both are trained at once, and a mean knows its step.)

    flowgrpo train examples/co_grpo.yaml

Shapes: B states, C transitions, S steps, K = 4 settings, H logits a state (1, or 2 where guidance is drawn: with the prompt and
without), L ids to fill, V ids of the codebook.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from math import log, pi
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key, Noise
from flowgrpo.core.pretrained import require_all
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.policies._fill import fill
from flowgrpo.policies._weights import trainable
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.amused._policy import AmusedPolicy, AmusedSampler
from flowgrpo.sampling.canvas import ROWS
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import Settings, UnmaskingKernel
from flowgrpo.sampling.kernels.orders import Maskgit
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw, mask_ratio, quota
from flowgrpo.sampling.shape import Shape

NAMES = ("mask_ratio", "temperature", "order_temperature", "guidance_scale")
"""The settings of a step, in the order of K."""
SETTINGS = ROWS
"""One more row of a state: what was drawn for the last step, in the first entries."""
WEIGHTS, VALUES = "schedule.safetensors", "schedule.json"


class CoGrpo(AmusedConfig):
    """Every step draws what is in `learn` with standard deviation `std` on the scale logit(mask_ratio), log(temperature),
    log(order_temperature), log(guidance_scale - 1). A mean is `speed` times a trained number, so it moves that many times as
    fast as the learning rate says. `alone`: the model stays as it is. Held-out pictures are made with the means.
    """

    learn: tuple[Literal["mask_ratio", "temperature", "order_temperature", "guidance_scale"], ...] = Field(min_length=1)
    std: PositiveFloat = 0.3
    speed: PositiveFloat = 100.0
    alone: bool = False

    @property
    def chooses_ids(self) -> bool:
        return False

    def complaint(self, shape: Shape) -> str | None:
        if complaint := super().complaint(shape):
            return complaint
        if "temperature" in self.call:
            return "the schedule starts from kernel 'maskgit'; leave policy.call.temperature, that of its order, out"
        if any(node.kernel and node.kernel != Maskgit() for node in shape.nodes):
            return "the schedule starts from kernel 'maskgit' as it is: rollouts must have that kernel"
        if any(node.parent is not None and node.step - shape.nodes[node.parent].step > 1 for node in shape.nodes):
            return "the schedule is drawn step by step: rollouts can't jump over steps"
        if "guidance_scale" in self.learn and self.guidance_scale <= 1.0:
            return "policy.learn has guidance_scale: set policy.call.guidance_scale above 1 to begin with"
        return None

    def sampling_complaint(self, steps: int) -> str | None:
        if steps == self.steps:
            return None
        return f"the learned schedule has policy.steps = {self.steps} steps; samples can't have {steps}"

    def build(self, device: torch.device, seed: int) -> "CoGrpoPolicy":
        return CoGrpoPolicy(self, device, seed)

    def build_sampler(self, device: torch.device, trained: Path | None) -> "CoGrpoSampler":
        sampler = CoGrpoSampler(self, device)
        if trained is not None:
            sampler.load(trained)
        return sampler


class CoGrpoSampler(AmusedSampler):
    """Kernel `maskgit` under the means of its schedule."""

    config: CoGrpo

    def _prepare(self, config: CoGrpo) -> None:
        super()._prepare(config)
        schedule = LearnedSchedule(config.learn, config.std, config.speed, Maskgit(), config.steps, config.length)
        self.learned = schedule.begin(config.guidance_scale).to(self.device)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.learned.load(folder)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int, latents: bool = False) -> Samples:
        if complaint := self.config.sampling_complaint(steps):
            raise UserError(complaint)

        def law(moves: Sequence[Move]) -> "ScheduledLaw":
            return self.learned.law(self.unmasking(moves), explore=False)

        return self.decode(fill(self.start(prompts, []), self.predict, law, Maskgit(), prompts, seeds, steps), prompts)

    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        return with_settings(super().start(prompts, keys))

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """The logits that the schedule needs and its means, [B, H L V + K]."""
        logits = self.halves(states, prompts, step) if self.learned.guides else super().predict(states, prompts, step)[:, None]
        return self.learned.predict(logits, step)


class CoGrpoPolicy(CoGrpoSampler, AmusedPolicy):
    def __init__(self, config: CoGrpo, device: torch.device, seed: int) -> None:
        AmusedPolicy.__init__(self, config, device, seed)
        if config.alone:
            for parameter in trainable(self.modules).values():
                parameter.requires_grad_(False)

    def law(self, moves: Sequence[Move], prompts: Sequence[Prompt]) -> "ScheduledLaw":
        return self.learned.law(self.unmasking(moves))

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable({**self.modules, "schedule": self.learned})

    @contextmanager
    def reference(self) -> Iterator[None]:
        with super().reference(), self.learned.reference():
            yield

    def export(self) -> Callable[[Path], None]:
        write, learned = super().export(), deepcopy(self.learned)

        def written(folder: Path) -> None:
            write(folder)
            learned.save(folder)

        return written


class LearnedSchedule(nn.Module):
    """Means [S, K] of what is drawn, as offsets from what the kernel says: `speed` times the parameter."""

    def __init__(self, learn: Sequence[str], std: float, speed: float, kernel: UnmaskingKernel, steps: int, length: int) -> None:
        super().__init__()
        if length < len(NAMES):
            raise UserError(f"a learned schedule needs at least {len(NAMES)} positions to fill, but policy.length is {length}")
        self.learn, self.std, self.speed, self.kernel, self.length = learn, std, speed, kernel, length
        self.offset = nn.Parameter(torch.zeros(steps, len(NAMES)))

    def begin(self, guidance_scale: float) -> "LearnedSchedule":
        """From what the kernel says, with this guidance. Errors: UserError for a setting that changes nothing there."""
        self.values = hand_made(self.kernel, len(self.offset), self.length, guidance_scale)
        self.learned = torch.tensor([name in self.learn for name in NAMES]) & effective(self.values)
        self.learned[:, NAMES.index("mask_ratio")] &= self.kernel.sets_quota
        if useless := [name for name, used in zip(NAMES, self.learned.any(0), strict=True) if name in self.learn and not used]:
            raise UserError(f"policy.learn: {useless} changes nothing for kernel '{self.kernel.type}' here; leave it out")
        return self

    @property
    def mean(self) -> Tensor:
        return self.speed * self.offset

    @property
    def guides(self) -> bool:
        """Whether the guidance scale is drawn, so that a prediction must hold the logits with and without the prompt."""
        return "guidance_scale" in self.learn

    def predict(self, logits: Tensor, step: int) -> Tensor:
        """Logits [B, H, L, V] with the means of this step: [B, H L V + K]."""
        return torch.cat([logits.flatten(1), self.mean[step].expand(len(logits), -1)], dim=1)

    def law(self, base: UnmaskingLaw, explore: bool = True) -> "ScheduledLaw":
        """With `explore` False the settings are the means."""
        rows = [move.source for move in base.moves]
        values, learned = self.values[rows].to(base.device), self.learned[rows].double().to(base.device)
        return ScheduledLaw(base, values, learned, self.std if explore else 0.0)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the means are the kernel's own settings."""
        trained = self.offset.data
        self.offset.data = torch.zeros_like(trained)
        try:
            yield
        finally:
            self.offset.data = trained

    def save(self, folder: Path) -> None:
        """The means, and the settings that they stand for as numbers that anyone can read."""
        save_file({"mean": self.mean.detach().cpu().contiguous()}, folder / WEIGHTS)
        learned = moved(self.values, self.mean.detach().cpu().double() * self.learned)
        settings = {
            name: {"hand_made": self.values[:, k].tolist(), "learned": learned[:, k].tolist()}
            for k, name in enumerate(NAMES)
            if self.learned[:, k].any()
        }
        (folder / VALUES).write_text(json.dumps(settings, indent=1))

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        file = folder / WEIGHTS
        if not file.is_file():
            raise UserError(f"{folder}: no {WEIGHTS} in it")
        state = load_file(file)
        require_all(file, {"mean"} - state.keys(), state.keys() - {"mean"})
        mean = state["mean"]
        if not mean.isfinite().all():
            raise UserError(f"{file} is not finite; training has diverged, use an earlier checkpoint")
        if mean.shape != self.offset.shape:
            raise UserError(f"{file} is a schedule of {len(mean)} steps, but policy.steps is {len(self.offset)}")
        self.offset.copy_(mean / self.speed)


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

    def select(self, rows: Tensor) -> "ScheduledLaw":
        return replace(self, base=self.base.select(rows), hand_made=self.hand_made[rows], learned=self.learned[rows])

    def history(self, x: Tensor, prediction: Tensor) -> Tensor:
        return self.base.history(x, prediction)

    def sample(self, x: Tensor, prediction: Tensor, noises: Sequence[Noise], histories: Sequence[Any]) -> Tensor:
        _, mean = self._unpack(prediction)
        draws = torch.stack([_of_schedule(noise).draw(torch.Size((len(NAMES),)), torch.float64) for noise in noises])
        offsets = (mean + self.std * draws.to(mean.device)) * self.learned
        x_next = self._under(offsets).sample(x, self.guided(prediction, offsets), noises, histories)
        x_next[:, SETTINGS, : len(NAMES)] = offsets
        return x_next

    def log_prob(self, x: Tensor, prediction: Tensor, x_next: Tensor) -> Tensor:
        offsets, (_, mean) = self._offsets(x_next), self._unpack(prediction)
        ids = self._under(offsets).log_prob(x, self.guided(prediction, offsets), x_next)
        settings = -0.5 * ((offsets - mean) / self.std).square() - log(self.std) - 0.5 * log(2.0 * pi)
        return torch.cat([ids, (settings * self.learned).float()], dim=1)

    def kl(self, x: Tensor, prediction: Tensor, other: Tensor, x_next: Tensor) -> Tensor:
        offsets, (_, mean), (_, other_mean) = self._offsets(x_next), self._unpack(prediction), self._unpack(other)
        predictions = self.guided(prediction, offsets), self.guided(other, offsets)
        ids = self._under(offsets).kl(x, *predictions, x_next)
        return torch.cat([ids, (0.5 * ((mean - other_mean) / self.std).square() * self.learned).float()], dim=1)

    def decisions(self, x_next: Tensor, outcome: Tensor) -> Tensor:
        return torch.cat([self.base.decisions(x_next, outcome), self.learned.float()], dim=1)

    def confidence(self, x_next: Tensor) -> Tensor:
        return torch.cat([self.base.confidence(x_next), torch.ones_like(self.learned, dtype=torch.float32)], dim=1)

    def guided(self, prediction: Tensor, offsets: Tensor) -> Tensor:
        """Logits [C, L, V]."""
        logits, _ = self._unpack(prediction)
        if logits.shape[1] == 1:
            return logits[:, 0]
        scale = moved(self.hand_made, offsets)[:, 3, None, None].float()
        return logits[:, 1] + scale * (logits[:, 0] - logits[:, 1])

    def _offsets(self, x_next: Tensor) -> Tensor:
        return x_next[:, SETTINGS, : len(NAMES)]

    def _under(self, offsets: Tensor) -> UnmaskingLaw:
        ratio, temperature, order_temperature, _ = moved(self.hand_made, offsets).unbind(1)
        return replace(self.base, settings=Settings(ratio, temperature, order_temperature))

    def _unpack(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [C, H, L, V], means [C, K])."""
        logits, mean = prediction[:, : -len(NAMES)], prediction[:, -len(NAMES) :]
        return logits.view(len(logits), -1, self.base.length, self.base.vocabulary.size), mean


def with_settings(states: Tensor) -> Tensor:
    """Canvases [B, ROWS + 1, L] for which nothing was drawn."""
    return torch.cat([states, torch.zeros_like(states[:, :1])], dim=1)


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


def _of_schedule(noise: Noise) -> Noise:
    return Noise((*noise.key, "schedule"), noise.common and (*noise.common, "schedule"), noise.correlation)
