"""mini-judge: does a picture of mini-sd3 hold what its prompt row states, told from its latents alone, finished or noisy?

B latents, Q questions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.rewards.scene import BACKGROUNDS, COLORS, EXTENTS, OBJECTS

LATENTS = (8, 8, 8)
"""Channels, height and width of mini-sd3's."""
RELATIONS = ("left of", "right of", "above", "below")
CHOICES: dict[str, list[Any]] = {
    "class": list(EXTENTS),
    "count": [1, 2, 3, 4],
    "color": list(COLORS),
    "size": ["small", "large"],
    "position": list(RELATIONS),
}
"""What a row may say of an object."""
ITEMS = 2
QUESTIONS = ("objects", *(f"{key} {item}" for item in range(ITEMS) for key in CHOICES), "background", "all")
"""Does the stated number of objects stand there and nothing else; each of an object's facts; the background; and all of it?"""
STATED = sum(map(len, CHOICES.values()))
WIDTH, BLOCKS, FREQUENCIES = 40, 4, 8


class LatentJudge(nn.Module):
    """A convolutional network whose features are scaled and shifted by the row and the noise level (FiLM, arXiv 1709.07871)."""

    def __init__(self) -> None:
        super().__init__()
        known = ITEMS * STATED + len(BACKGROUNDS) + 2 * FREQUENCIES
        self.condition = nn.Sequential(nn.Linear(known, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.film = nn.Linear(64, 2 * WIDTH * BLOCKS)
        self.stem = nn.Conv2d(LATENTS[0] + 2, WIDTH, 3, padding=1)
        self.mix = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(BLOCKS))
        self.look = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(BLOCKS))
        self.norm = nn.ModuleList(nn.GroupNorm(4, WIDTH, affine=False) for _ in range(BLOCKS))
        self.head = nn.Sequential(nn.Linear(2 * WIDTH + 64, 96), nn.SiLU(), nn.Linear(96, len(QUESTIONS)))

    def forward(self, latents: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """Logits [B, Q]; `latents` [B, 8, 8, 8], `sigma` [B] in [0, 1], `rows` as `encoded` makes them."""
        angles = torch.pi * sigma[:, None] * torch.arange(1, FREQUENCIES + 1, device=sigma.device)
        condition = self.condition(torch.cat([rows, angles.sin(), angles.cos()], dim=1))
        scales = self.film(condition).view(-1, BLOCKS, 2, WIDTH, 1, 1).unbind(1)
        x = torch.relu(self.stem(torch.cat([latents, _coordinates(latents)], dim=1)))
        for mix, look, norm, scale in zip(self.mix, self.look, self.norm, scales, strict=True):
            mixed = torch.relu(mix(x))
            x = mixed + torch.relu((1.0 + scale[:, 0]) * norm(look(mixed)) + scale[:, 1])
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3)), condition], dim=1))


def _coordinates(latents: Tensor) -> Tensor:
    """[B, 2, H, W] from -1 to 1."""
    height, width = (torch.linspace(-1.0, 1.0, size, device=latents.device) for size in latents.shape[2:])
    return torch.stack(torch.meshgrid(height, width, indexing="ij")).expand(len(latents), -1, -1, -1)


def encoded(row: dict[str, Any]) -> Tensor:
    """What a row states, as ones among zeros. Errors: UserError for what mini-sd3 never draws."""
    include, background = row.get("include"), row.get("background")
    if not isinstance(include, list) or not 1 <= len(include) <= ITEMS or background not in (None, *BACKGROUNDS):
        raise _unknown(row)
    spots = [place for i, item in enumerate(include) for place in _object(row, item, 1 - i)]
    absent = [0.0] * STATED * (ITEMS - len(include))
    return torch.tensor([*spots, *absent, *(float(background == name) for name in BACKGROUNDS)])


def _object(row: dict[str, Any], item: dict[str, Any], other: int) -> list[float]:
    if "position" in item and (len(row["include"]) < ITEMS or item["position"][1] != other):
        raise _unknown(row)
    said = {**item, "position": item["position"][0]} if "position" in item else item
    if not {"class", "count"} <= said.keys() or any(said[key] not in CHOICES[key] for key in CHOICES.keys() & said.keys()):
        raise _unknown(row)
    return [float(said.get(key) == choice) for key, choices in CHOICES.items() for choice in choices]


def _unknown(row: dict[str, Any]) -> UserError:
    known = ", ".join(f"{key} {choices}" for key, choices in CHOICES.items())
    return UserError(f"the prompt row {str(row)[:200]} must hold 'include': one or two of {OBJECTS}, of {known}")


def asked(row: dict[str, Any]) -> list[int]:
    """The questions that the facts of a row answer, in the order of `scene.facts`."""
    names = ["objects"]
    for i, item in enumerate(row["include"]):
        names += [f"{key} {i}" for key in CHOICES if key in item]
    return [QUESTIONS.index(name) for name in names + (["background"] if "background" in row else [])]
