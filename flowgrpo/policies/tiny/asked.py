"""What a policy over a tiny pipeline is built from: its config, and a prompt with the pictures and clips that its call wants."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowgrpo.data.prompts import Files, Prompt
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.tiny import Tiny


def config_of(entry: Tiny, folder: Path) -> DiffusersConfig:
    options = {"lora": {"rank": 2, "alpha": 4}, **entry.options}
    return DiffusersConfig.model_validate({"model": str(folder), "steps": entry.steps, "call": entry.call, **options})


def prompt_of(entry: Tiny, folder: Path) -> Prompt:
    conditions = {name: files(folder / name, size) for name, size in entry.conditions.items()}
    return Prompt(0, entry.prompt, {}, conditions)


def files(stem: Path, size: Any) -> Files:
    """A picture of noise for (height, width), a clip for (frames, height, width), several for a list; of masks a half is set."""
    if size is None:
        return None
    if isinstance(size, list):
        return [files(stem.with_name(f"{stem.name}{i}"), one) for i, one in enumerate(size)]
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    if "mask" in stem.name:
        left = np.arange(size[-1]) < size[-1] // 2 + np.arange(size[0] if len(size) == 3 else 1)[:, None]
        noise[:] = 255 * left[:, None, :, None] if len(size) == 3 else 255 * left[0, :, None]
    if len(size) == 2:
        Image.fromarray(noise).save(stem.with_suffix(".png"))
        return stem.with_suffix(".png")
    first, *others = (Image.fromarray(frame) for frame in noise)
    first.save(stem.with_suffix(".webp"), save_all=True, append_images=others, lossless=True)
    return stem.with_suffix(".webp")
