"""What rewards see."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import UnidentifiedImageError
from PIL.Image import Image
from PIL.Image import open as open_image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image, to_tensor

from flowgrpo.errors import UserError
from flowgrpo.paths import locate
from flowgrpo.prompts import load_prompts


@dataclass(frozen=True, eq=False)
class Samples:
    """B finished samples. `images` is float32 [B, 3, H, W] in [0, 1]; `metadata` are the prompt rows, untouched.

    Samples with the same number in `group` answer one prompt and are compared with each other; a reward always sees whole
    groups.
    """

    images: Tensor
    prompts: list[str]
    metadata: list[dict[str, Any]]
    group: list[int]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> "Samples":
        return Samples(self.images[rows], self.prompts[rows], self.metadata[rows], self.group[rows])

    def take(self, rows: Sequence[int]) -> "Samples":
        """These samples, in this order."""
        return Samples(
            self.images[list(rows)],
            [self.prompts[i] for i in rows],
            [self.metadata[i] for i in rows],
            [self.group[i] for i in rows],
        )

    def pil(self) -> list[Image]:
        return [to_pil_image(image) for image in self.images]

    @staticmethod
    def concatenate(parts: Sequence["Samples"]) -> "Samples":
        return Samples(
            torch.cat([p.images for p in parts]),
            [text for p in parts for text in p.prompts],
            [row for p in parts for row in p.metadata],
            [group for p in parts for group in p.group],
        )


def read_samples(source: str) -> Samples:
    """A JSONL of `{"image": path, "prompt": ..., any metadata}`; paths are relative to the file, pictures of one size."""
    rows = load_prompts(source)
    folder = locate(source).parent
    images = [_read_image(folder / str(row.metadata.get("image", ""))) for row in rows]
    return Samples(torch.stack(images), [row.text for row in rows], [row.metadata for row in rows], [row.index for row in rows])


def _read_image(path: Path) -> Tensor:
    if not path.is_file():
        raise UserError(f"{path}: no such picture")
    try:
        return to_tensor(open_image(path).convert("RGB"))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture that can be read") from error
