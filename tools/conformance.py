"""Build every tiny pipeline, check it, and write flowgrpo/conformance/table.json: `python tests/conformance.py [NAME ...]`.

With names only these are checked and printed, and only their rows are new.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

import tiny
from flowgrpo.training.conformance import table
from flowgrpo.training.conformance.check import Verdict, check
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.data.prompts import Files, Prompt

PROCESSES = 2


def verdict(name: str) -> Verdict:
    entry = tiny.pipelines()[name]
    with tempfile.TemporaryDirectory() as folder:
        entry.build().save_pretrained(f"{folder}/pipeline")
        config = config_of(entry, Path(folder, "pipeline"))
        found = check(name, entry.kind, config, prompt_of(entry, Path(folder)))
    return found if found.passed else replace(found, error=entry.known or found.error)


def config_of(entry: tiny.Tiny, folder: Path) -> DiffusersConfig:
    options = {"lora": {"rank": 2, "alpha": 4}, **entry.options}
    return DiffusersConfig.model_validate({"model": str(folder), "steps": entry.steps, "call": entry.call, **options})


def prompt_of(entry: tiny.Tiny, folder: Path) -> Prompt:
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


def _quiet() -> None:
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()


def main(names: list[str]) -> None:
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), _quiet) as pool:
        rows = []
        for found in pool.map(verdict, names or tiny.pipelines()):
            print(f"{'pass' if found.passed else 'FAIL'}  {found.name}", file=sys.stderr)
            rows.append(found.row())
    fresh = {row["name"]: row for row in [*table.read(), *rows]}
    table.write([fresh[name] for name in tiny.pipelines()])
    print(table.text(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
