"""Samples of what a program holds: pictures of PIL, arrays, tensors or texts. B samples, F frames of H x W pixels."""

from collections.abc import Sequence, Sized
from typing import TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.media import still
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Outputs, Samples

Made = Tensor | np.ndarray | Sequence[str] | Sequence[Image.Image] | Sequence[Sequence[Image.Image]]
"""Pictures of PIL, or lists of them, which are clips; tensors [B, 3, H, W], of clips [B, F, 3, H, W]; arrays [B, H, W, 3], of
clips [B, F, H, W, 3], as diffusers gives them; texts. Pixels are uint8, or floats in [0, 1]."""
TYPES = "pixels are uint8, or floats in [0, 1]"
TENSOR, ARRAY = "[B, 3, H, W] or [B, F, 3, H, W]", "[B, H, W, 3] or [B, F, H, W, 3]"
WANTED = f"pictures or clips of PIL, a tensor {TENSOR}, an array {ARRAY}, or texts"


def as_samples(made: Made, prompts: Sequence[str | Prompt] | None = None) -> Samples:
    """Samples, each with its prompt, a text or a row of `load_prompts`; those of one prompt are a group.

    Without prompts, prompts are empty, and each sample is a group of its own. Errors: UserError for what is no sample, pixels of
    other types or outside of [0, 1], pictures of several sizes, or another number of prompts.
    """
    outputs = outputs_of(made)
    if prompts is None:
        return Samples([""] * len(outputs), [{} for _ in outputs], list(range(len(outputs))), outputs)
    if len(prompts) != len(outputs):
        raise UserError(f"there are {len(outputs)} samples and {len(prompts)} prompts; give each sample its own")
    if strange := [type(prompt).__name__ for prompt in prompts if not isinstance(prompt, str | Prompt)]:
        raise UserError(f"a prompt is a text or a row of load_prompts, and this is of type {strange[0]}")
    texts = [prompt.text if isinstance(prompt, Prompt) else prompt for prompt in prompts]
    rows = [prompt.metadata if isinstance(prompt, Prompt) else {"prompt": prompt} for prompt in prompts]
    asked = [prompt.index if isinstance(prompt, Prompt) else prompt for prompt in prompts]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(asked))}
    return Samples(texts, rows, [numbers[key] for key in asked], outputs)


def require_whole(samples: Samples) -> None:
    """Errors: UserError for samples that somebody made by hand and got wrong: columns of several lengths, or pixels that are no
    floats in [0, 1]."""
    outputs = samples.outputs if isinstance(samples.outputs, list | Tensor) else samples.prompts
    columns: dict[str, Sized] = {
        "prompts": samples.prompts,
        "metadata": samples.metadata,
        "group": samples.group,
        "outputs": outputs,
    }
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"a sample has one of each, and these have {', '.join(f'{n} {name}' for name, n in counts.items())}")
    if isinstance(samples.outputs, Tensor):
        if not samples.outputs.is_floating_point():
            raise UserError(f"pixels of samples are floats in [0, 1], and these are {samples.outputs.dtype}")
        outputs_of(samples.outputs)


def outputs_of(made: Made) -> Outputs:
    """As `Samples` holds them."""
    if isinstance(made, Tensor):
        _require_shape(made, TENSOR, -3)
        return _floats(made)
    if isinstance(made, np.ndarray):
        if made.dtype.kind not in "biuf":
            raise UserError(f"{TYPES}, and these are {made.dtype}")
        pixels = torch.from_numpy(np.require(made, requirements=("C", "W")))
        _require_shape(pixels, ARRAY, -1)
        return _floats(pixels.movedim(-1, -3).contiguous())
    if not isinstance(made, Sequence):
        raise UserError(f"samples come together, and this is one of type {type(made).__name__}; give {WANTED}, in a list")
    some = list(made)
    if not some:
        raise UserError(f"there are no samples; give {WANTED}")
    if all(isinstance(one, str) for one in some):
        return [str(one) for one in some]
    if _are_pictures(some):
        return outputs_of(_array(some))
    if _are_clips(some):
        return outputs_of(_stacked([_array(clip) for clip in some]))
    raise UserError(f"these are no samples: {', '.join(sorted({type(one).__name__ for one in some}))}; give {WANTED}")


def _are_pictures(some: Sequence[object]) -> TypeGuard[Sequence[Image.Image]]:
    return all(isinstance(one, Image.Image) for one in some)


def _are_clips(some: Sequence[object]) -> TypeGuard[Sequence[Sequence[Image.Image]]]:
    return all(isinstance(one, Sequence) and one and _are_pictures(one) for one in some)


def _array(pictures: Sequence[Image.Image]) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return _stacked([still(picture) for picture in pictures])


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    shapes = sorted({array.shape[:-1] for array in arrays})
    if len(shapes) > 1:
        sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
        raise UserError(f"samples of one call have one size, and these have {sizes}; score each size by itself, or their files")
    return np.stack(arrays)


def _require_shape(pixels: Tensor, shape: str, channels: int) -> None:
    if pixels.ndim not in (4, 5) or pixels.shape[channels] != 3 or not pixels.numel():
        raise UserError(f"pictures are {shape}, and these are {[*pixels.shape]}")


def _floats(pixels: Tensor) -> Tensor:
    """float32."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255.0)
    if not pixels.is_floating_point():
        raise UserError(f"{TYPES}, and these are {pixels.dtype}")
    low, high = pixels.amin().item(), pixels.amax().item()
    if not 0.0 <= low <= high <= 1.0:
        raise UserError(f"pixels that are floats lie in [0, 1], and these are from {low:.4g} to {high:.4g}")
    return pixels.float()
