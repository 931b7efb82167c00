"""What rewards see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.kinds import Kind
from flowgrpo.data.media import Shown, address, rounded

T = TypeVar("T")
LOOKED_AT, SIDE = 24, 128
"""So many samples are shown in a notebook, so many pixels wide."""
Outputs = Tensor | list[str]


@dataclass(frozen=True, eq=False)
class Samples:
    """B finished samples: pictures, clips or texts. `metadata` are the prompt rows, untouched.

    `outputs` are float32 in [0, 1], [B, 3, H, W] for pictures and [B, F, 3, H, W] for clips of F frames, or the texts,
    completions without their prompts. Rewards read them as `images`, `videos` or `texts`; what
    the model does not make can't be read.
    Samples with the same number in `group` answer one prompt and are compared; a reward always sees whole groups.
    """

    prompts: list[str]
    metadata: list[dict[str, Any]]
    group: list[int]
    outputs: Outputs

    @property
    def kind(self) -> Kind:
        if isinstance(self.outputs, list):
            return "texts"
        return "images" if self.outputs.ndim == 4 else "videos"

    @property
    def images(self) -> Tensor:
        return cast(Tensor, self._outputs("images"))

    @property
    def videos(self) -> Tensor:
        return cast(Tensor, self._outputs("videos"))

    @property
    def texts(self) -> list[str]:
        return cast(list[str], self._outputs("texts"))

    def _outputs(self, kind: Kind) -> Outputs:
        if self.kind != kind:
            raise UserError(f"the reward reads samples.{kind}, but these samples are {self.kind}; use a reward for {self.kind}")
        return self.outputs

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> "Samples":
        return self.take(range(len(self))[rows])

    def take(self, rows: Sequence[int]) -> "Samples":
        """These samples, in this order."""
        outputs = [self.outputs[i] for i in rows] if isinstance(self.outputs, list) else self.outputs[list(rows)]
        return Samples([self.prompts[i] for i in rows], [self.metadata[i] for i in rows], [self.group[i] for i in rows], outputs)

    def shown(self) -> list[Shown]:
        """Each sample as a person looks at it, and as it is written."""
        if isinstance(self.outputs, list):
            return list(self.outputs)
        if self.kind == "images":
            return [Image.fromarray(picture) for picture in rounded(self.outputs)]
        return [[Image.fromarray(frame) for frame in rounded(clip)] for clip in self.outputs]

    def _repr_html_(self) -> str:
        """The first samples of every group, for a notebook."""
        firsts = list({number: i for i, number in reversed(list(enumerate(self.group)))}.values())[::-1]
        rows = (firsts + [i for i in range(len(self)) if i not in firsts])[:LOOKED_AT]
        cells = "".join(_cell(self.prompts[i], shown) for i, shown in zip(rows, self.take(rows).shown(), strict=True))
        note = f"<p>{len(rows)} of {len(self)}</p>" if len(rows) < len(self) else ""
        return f"<div style='display:flex;flex-wrap:wrap;gap:8px'>{cells}</div>{note}"

    def meaningless(self) -> "list[Samples]":
        """As many samples of noise, and as many of nothing: what no reward should take for good."""
        if isinstance(self.outputs, list):
            return [replace(self, outputs=texts) for texts in ([t[::-1] for t in self.outputs], [""] * len(self))]
        noise = torch.rand(self.outputs.shape, generator=torch.Generator().manual_seed(0))
        return [replace(self, outputs=pixels) for pixels in (noise, torch.full_like(self.outputs, 0.5))]

    @staticmethod
    def concatenate(several: Sequence["Samples"]) -> "Samples":
        """Samples of one kind and size, one after the other."""
        if several[0].kind == "texts":
            outputs: Outputs = [text for p in several for text in p.texts]
        else:
            outputs = torch.cat([cast(Tensor, p.outputs) for p in several])
        return Samples(
            [text for p in several for text in p.prompts],
            [row for p in several for row in p.metadata],
            [group for p in several for group in p.group],
            outputs,
        )


def _cell(prompt: str, shown: Shown) -> str:
    caption = f"<figcaption style='font-size:11px;max-width:128px'>{escape(prompt)}</figcaption>"
    if isinstance(shown, str):
        return (
            f"<figure style='margin:0'><pre style='max-width:320px;white-space:pre-wrap'>{escape(shown)}</pre>{caption}</figure>"
        )
    source, small = address(shown if isinstance(shown, list) else [shown], SIDE)
    style = f"width:{SIDE}px;{'image-rendering:pixelated' if small else ''}"
    return f"<figure style='margin:0'><img style='{style}' src='{source}'>{caption}</figure>"


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` items, spread evenly, so that every kind in a sorted file is met."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]
