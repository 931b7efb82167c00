"""Samples that ship with flowgrpo, for the ladders of rewards: four photographs, written words, and ways to spoil a picture.

B samples; pictures are float32 [B, 3, H, W] in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, to_tensor

from flowgrpo.core.paths import assets
from flowgrpo.data.media import read
from flowgrpo.data.samples import Outputs, Samples

CAPTIONS = {
    "astronaut": "a portrait of a smiling astronaut in an orange suit",
    "coffee": "a cup of coffee on a wooden table",
    "chelsea": "a close-up of a tabby cat",
    "rocket": "a rocket on its launch pad at night",
}
LABELS = {"coffee": "espresso", "chelsea": "tabby cat", "rocket": "missile"}
"""ImageNet's names of what the photographs show; it has none for astronauts."""


def samples(outputs: Outputs, rows: Sequence[dict[str, Any]]) -> Samples:
    """One sample a row, each a group of its own; a row's `prompt` may be missing."""
    return Samples([row.get("prompt", "") for row in rows], list(rows), list(range(len(rows))), outputs)


def photos(*names: str) -> Samples:
    """The photographs of these names (all of them if none is given), 224 pixels wide, with their captions as prompts."""
    chosen = names or tuple(CAPTIONS)
    return samples(torch.stack([_photo(name) for name in chosen]), [{"prompt": CAPTIONS[name]} for name in chosen])


def captioned(pictures: Samples, captions: Sequence[str]) -> Samples:
    """The same pictures under other prompts."""
    return replace(pictures, prompts=list(captions), metadata=[{"prompt": caption} for caption in captions])


@lru_cache
def _photo(name: str) -> Tensor:
    return to_tensor(read(assets() / "calibration" / f"{name}.jpg"))


def written(text: str, size: int = 224) -> Tensor:
    """[3, size, size]: the text in black on white, as large as its lines fit."""
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    points = float(size)
    while (box := draw.multiline_textbbox((0, 0), text, ImageFont.load_default(points)))[2] > 0.9 * size or box[3] > 0.9 * size:
        points *= 0.9
    middle = (size / 2, size / 2)
    draw.multiline_text(middle, text, "black", ImageFont.load_default(points), anchor="mm", align="center")
    return to_tensor(picture)


def noisy(pictures: Samples, level: float) -> Samples:
    """With Gaussian noise of this standard deviation, always the same."""
    noise = torch.randn(pictures.images.shape, generator=torch.Generator().manual_seed(0))
    return replace(pictures, outputs=(pictures.images + level * noise).clamp(0.0, 1.0))


def blurred(pictures: Samples, sigma: float) -> Samples:
    """Blurred by `sigma` pixels."""
    return replace(pictures, outputs=gaussian_blur(pictures.images, 2 * int(3 * sigma) + 1, sigma))
