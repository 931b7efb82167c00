"""The schedule as a policy of its own, for any policy over canvases.

Shapes: B states, S steps, K settings (`sampling.laws.scheduled`), H logits a state, L positions to fill, V ids.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.policies import ScheduleConfig
from flowgrpo.policies._fit import require_all
from flowgrpo.policies._weights import Weights
from flowgrpo.sampling.kernels._unmasking import UnmaskingKernel
from flowgrpo.sampling.laws.scheduled import NAMES, ScheduledLaw, effective, hand_made, moved, pack
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw

WEIGHTS, VALUES = "schedule.safetensors", "schedule.json"


class LearnedSchedule(nn.Module):
    """Means [S, K] of what is drawn, as offsets from what the kernel says."""

    def __init__(self, config: ScheduleConfig, kernel: UnmaskingKernel, steps: int, length: int, guidance_scale: float) -> None:
        super().__init__()
        if length < len(NAMES):
            raise UserError(f"policy.schedule needs at least {len(NAMES)} positions to fill, but policy.length is {length}")
        self.config, self.steps = config, steps
        self.values = hand_made(kernel, steps, length, guidance_scale)
        wanted = torch.tensor([name in config.learn for name in NAMES])
        self.learned = wanted & effective(self.values)
        self.learned[:, NAMES.index("mask_ratio")] &= kernel.sets_quota
        if useless := [name for name, used in zip(NAMES, self.learned.any(0), strict=True) if name in config.learn and not used]:
            raise UserError(f"policy.schedule.learn: {useless} changes nothing for kernel '{kernel.type}' here; leave it out")
        self.mean = nn.Parameter(torch.zeros(steps, len(NAMES)))

    @property
    def guides(self) -> bool:
        """Whether the guidance scale is drawn, so that a prediction must hold the logits with and without the prompt."""
        return "guidance_scale" in self.config.learn

    def predict(self, logits: Tensor, step: int) -> Tensor:
        """Logits [B, H, L, V] with the means of this step."""
        return pack(logits, self.mean[step])

    def law(self, base: UnmaskingLaw, explore: bool = True) -> ScheduledLaw:
        """With `explore` False the settings are the means."""
        rows = [move.source for move in base.moves]
        values, learned = self.values[rows].to(base.device), self.learned[rows].double().to(base.device)
        return ScheduledLaw(base, values, learned, self.config.std if explore else 0.0)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the means are the kernel's own settings."""
        trained = self.mean.data
        self.mean.data = torch.zeros_like(trained)
        try:
            yield
        finally:
            self.mean.data = trained

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
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder}: no {WEIGHTS} in it")
        state = load_file(folder / WEIGHTS)
        require_all(folder / WEIGHTS, {"mean"} - state.keys(), state.keys() - {"mean"})
        mean = state["mean"]
        if not mean.isfinite().all():
            raise UserError(f"{folder / WEIGHTS} is not finite; training has diverged, use an earlier checkpoint")
        if mean.shape != self.mean.shape:
            raise UserError(f"{folder / WEIGHTS} is a schedule of {len(mean)} steps, but policy.steps is {self.steps}")
        self.mean.copy_(mean)


def with_schedule(modules: Mapping[str, nn.Module], schedule: LearnedSchedule | None) -> dict[str, nn.Module]:
    """The modules that are trained."""
    return {**modules} if schedule is None else {**modules, "schedule": schedule}


@contextmanager
def reference_of(weights: Weights, schedule: LearnedSchedule | None) -> Iterator[None]:
    with weights.reference(), schedule.reference() if schedule else nullcontext():
        yield
