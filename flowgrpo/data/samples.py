"""What rewards see."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.kinds import Kind, Reads
from flowgrpo.data.media import Shown, address, rounded

T = TypeVar("T")
LOOKED_AT, SIDE = 24, 128
"""So many samples are shown in a notebook, so many pixels wide."""
Outputs = Tensor | list[str]


class Undecoded:
    """Pictures or clips that are decoded when they are first looked at, or cross processes, and not again."""

    def __init__(self, decode: Callable[[], Outputs]) -> None:
        self._decode = decode

    @cached_property
    def outputs(self) -> Outputs:
        return self._decode()

    def __reduce__(self) -> tuple[Callable[..., "Undecoded"], tuple[Outputs]]:
        return _decoded, (self.outputs,)


def _decoded(outputs: Outputs) -> Undecoded:
    return Undecoded(lambda: outputs)


@dataclass(frozen=True, eq=False)
class Latents:
    """States [B, ...], float32, as the pipeline keeps them (FLUX: tokens and channels): `alpha` x0 + `sigma` x1 with x0 clean
    and x1 noise, both [B]. A finished one has alpha 1 and sigma 0."""

    states: Tensor
    alpha: Tensor
    sigma: Tensor

    def take(self, rows: Sequence[int]) -> "Latents":
        return Latents(*(column[list(rows)] for column in vars(self).values()))

    @staticmethod
    def concatenate(several: "Sequence[Latents]") -> "Latents":
        return Latents(*(torch.cat(columns) for columns in zip(*(vars(some).values() for some in several), strict=True)))


@dataclass(frozen=True, eq=False)
class Samples:
    """B samples: pictures, clips or texts. `metadata` are the prompt rows, untouched.

    `outputs` are float32 in [0, 1], [B, 3, H, W] for pictures and [B, F, 3, H, W] for clips of F frames, or the texts,
    completions without their prompts. Rewards read them as `images`, `videos` or `texts`; what
    the model does not make can't be read. `states`, which they are decoded from, are read as `latents`; they are None where they
    are not known. `outputs` are None where only those are to be looked at.
    Samples with the same number in `group` answer one prompt and are compared; a reward always sees whole groups.
    """

    prompts: list[str]
    metadata: list[dict[str, Any]]
    group: list[int]
    outputs: Outputs | Undecoded | None
    states: Latents | None = None

    @property
    def kind(self) -> Reads:
        if self.outputs is None:
            return "latents"
        if isinstance(self.decoded, list):
            return "texts"
        return "images" if self.decoded.ndim == 4 else "videos"

    @property
    def decoded(self) -> Outputs:
        """The outputs, decoded now if they were not."""
        assert self.outputs is not None, "only latents are there to be looked at"
        return self.outputs.outputs if isinstance(self.outputs, Undecoded) else self.outputs

    @property
    def images(self) -> Tensor:
        return cast(Tensor, self._outputs("images"))

    @property
    def videos(self) -> Tensor:
        return cast(Tensor, self._outputs("videos"))

    @property
    def texts(self) -> list[str]:
        return cast(list[str], self._outputs("texts"))

    @property
    def latents(self) -> Latents:
        if self.states is None:
            raise UserError(
                f"the reward reads samples.latents, but these samples are {self.kind} whose latents are not known: it can score "
                "what a diffusion model makes, in a run or a rollout, and no files"
            )
        return self.states

    def _outputs(self, kind: Kind) -> Outputs:
        if self.kind != kind:
            raise UserError(f"the reward reads samples.{kind}, but these samples are {self.kind}; use a reward for {self.kind}")
        return self.decoded

    @cached_property
    def unseen(self) -> "Samples":
        """The same, with nothing to look at but the latents. Errors: UserError where they are not known."""
        return replace(self, outputs=None, states=self.latents)

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
            _when_decoded(lambda outputs: _taken(outputs[0], rows), [self]),
            self.states and self.states.take(rows),
        )

    def shown(self) -> list[Shown]:
        """Each sample as a person looks at it, and as it is written."""
        outputs = self.decoded
        if isinstance(outputs, list):
            return list(outputs)
        if self.kind == "images":
            return [Image.fromarray(picture) for picture in rounded(outputs)]
        return [[Image.fromarray(frame) for frame in rounded(clip)] for clip in outputs]

    def _repr_html_(self) -> str:
        """The first samples of every group, for a notebook."""
        firsts = list({number: i for i, number in reversed(list(enumerate(self.group)))}.values())[::-1]
        rows = (firsts + [i for i in range(len(self)) if i not in firsts])[:LOOKED_AT]
        cells = "".join(_cell(self.prompts[i], shown) for i, shown in zip(rows, self.take(rows).shown(), strict=True))
        note = f"<p>{len(rows)} of {len(self)}</p>" if len(rows) < len(self) else ""
        return f"<div style='display:flex;flex-wrap:wrap;gap:8px'>{cells}</div>{note}"

    def meaningless(self) -> "list[Samples]":
        """As many samples of noise, and as many of nothing: what no reward should take for good."""
        generator = torch.Generator().manual_seed(0)
        made = None if self.outputs is None else self.decoded
        outputs: list[Outputs | None] = [None, None]
        if isinstance(made, list):
            outputs = [[text[::-1] for text in made], [""] * len(self)]
        elif made is not None:
            outputs = [torch.rand(made.shape, generator=generator), torch.full_like(made, 0.5)]
        states: list[Latents | None] = [None, None]
        if self.states:
            noise = torch.randn(self.states.states.shape, generator=generator).to(self.states.states.device)
            states = [replace(self.states, states=empty) for empty in (noise, torch.zeros_like(noise))]
        return [replace(self, outputs=pixels, states=latents) for pixels, latents in zip(outputs, states, strict=True)]

    @staticmethod
    def concatenate(several: Sequence["Samples"]) -> "Samples":
        """Samples of one kind and size, one after the other."""
        states = [part.states for part in several if part.states]
        return Samples(
            [text for p in several for text in p.prompts],
            [row for p in several for row in p.metadata],
            [group for p in several for group in p.group],
            _when_decoded(_joined, several),
            Latents.concatenate(states) if len(states) == len(several) else None,
        )


def _when_decoded(make: Callable[[list[Outputs]], Outputs], several: Sequence[Samples]) -> Outputs | Undecoded | None:
    """What is made of the outputs of several samples: now, or once they are decoded."""
    if any(part.outputs is None for part in several):
        return None
    if any(isinstance(part.outputs, Undecoded) for part in several):
        return Undecoded(lambda: make([part.decoded for part in several]))
    return make([part.decoded for part in several])


def _taken(outputs: Outputs, rows: Sequence[int]) -> Outputs:
    return [outputs[i] for i in rows] if isinstance(outputs, list) else outputs[list(rows)]


def _joined(outputs: list[Outputs]) -> Outputs:
    if isinstance(outputs[0], list):
        return [text for texts in outputs for text in texts]
    return torch.cat(cast(list[Tensor], outputs))


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
