"""What rewards see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """B finished samples: pictures or texts. `metadata` are the prompt rows, untouched.

    `images` is float32 [B, 3, H, W] in [0, 1], `texts` are completions without their prompts; what the model does not make
    can't be read. Samples with the same number in `group` answer one prompt and are compared with each other; a reward always
    sees whole groups.
    """

    prompts: list[str]
    metadata: list[dict[str, Any]]
    group: list[int]
    made_images: Tensor | None = None
    made_texts: list[str] | None = None

    @property
    def images(self) -> Tensor:
        if self.made_images is None:
            raise UserError("these samples are texts, and a reward wants pictures; rewards for texts read samples.texts")
        return self.made_images

    @property
    def texts(self) -> list[str]:
        if self.made_texts is None:
            raise UserError("these samples are pictures, and a reward wants texts; rewards for pictures read samples.images")
        return self.made_texts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> "Samples":
        return self.take(range(len(self))[rows])

    def take(self, rows: Sequence[int]) -> "Samples":
        """These samples, in this order."""
        return Samples(
            [self.prompts[i] for i in rows],
            [self.metadata[i] for i in rows],
            [self.group[i] for i in rows],
            None if self.made_images is None else self.made_images[list(rows)],
            None if self.made_texts is None else [self.made_texts[i] for i in rows],
        )

    def shown(self) -> list[Image | str]:
        """Each sample as a person looks at it."""
        return [to_pil_image(image) for image in self.images] if self.made_texts is None else list(self.texts)

    def meaningless(self) -> "list[Samples]":
        """As many samples of noise, and as many of nothing: what no reward should take for good."""
        if self.made_images is None:
            return [replace(self, made_texts=texts) for texts in ([t[::-1] for t in self.texts], [""] * len(self))]
        noise = torch.rand(self.images.shape, generator=torch.Generator().manual_seed(0))
        return [replace(self, made_images=images) for images in (noise, torch.full_like(self.images, 0.5))]

    @staticmethod
    def concatenate(parts: Sequence["Samples"]) -> "Samples":
        images = [p.made_images for p in parts if p.made_images is not None]
        texts = [p.made_texts for p in parts if p.made_texts is not None]
        return Samples(
            [text for p in parts for text in p.prompts],
            [row for p in parts for row in p.metadata],
            [group for p in parts for group in p.group],
            torch.cat(images) if images else None,
            [text for part in texts for text in part] if texts else None,
        )


def read_samples(source: str) -> Samples:
    """A JSONL of `{"image": path, "prompt": ..., any metadata}`; paths are relative to the file, pictures of one size."""
    rows = load_prompts(source)
    folder = locate(source).parent
    images = [_read_image(folder / str(row.metadata.get("image", ""))) for row in rows]
    return Samples(
        [row.text for row in rows], [row.metadata for row in rows], [row.index for row in rows], made_images=torch.stack(images)
    )


def _read_image(path: Path) -> Tensor:
    if not path.is_file():
        raise UserError(f"{path}: no such picture")
    try:
        return to_tensor(open_image(path).convert("RGB"))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture that can be read") from error
