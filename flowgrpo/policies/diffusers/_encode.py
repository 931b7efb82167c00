"""Pictures as states of a pipeline: its own way from a state to its VAE, found out and gone backwards.

Shapes: a state has D elements, and the VAE decodes as many. Element j of what it decodes is a_j s_k + b_j, s the state:
pipelines scale, shift, unpack and permute. A state of zeros shows b, one of ones a, and numbered elements show k for each j,
digit by digit.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil, log
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.policies.diffusers._runtime import decoders

BASE = 16
"""Of the digits: so few that they are told apart in bf16."""
MOST_APART = 0.02
"""So much may a picture differ in the mean from what the VAE makes of it by itself, where black and white differ by 1."""


@dataclass(frozen=True)
class Encoder:
    """`vae` decodes `scale` x state[`order`] + `shift`, flat [D]; `latents` is the shape of what it decodes and `size` that of
    the picture (H, W)."""

    vae: Any
    state: torch.Size
    latents: torch.Size
    size: tuple[int, int]
    order: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        """States [B, ...], float32, of pictures [B, 3, H, W] in [0, 1]."""
        return self._state(self._encoded(pictures))

    def _encoded(self, pictures: Tensor) -> Tensor:
        """What the VAE makes of them, without noise: [B, ...]."""
        weight = next(self.vae.parameters())
        pixels = (2.0 * pictures - 1.0).to(weight.device, weight.dtype)
        first = self.vae.encode(pixels.unsqueeze(2) if len(self.latents) == 5 else pixels)[0]
        latents: Tensor = first if isinstance(first, Tensor) else first.mode()
        return latents

    def _state(self, latents: Tensor) -> Tensor:
        flat = (latents.float().flatten(1) - self.shift) / self.scale
        state = torch.empty_like(flat)
        state[:, self.order] = flat
        return state.view(-1, *self.state[1:])

    def require_faithful(self, picture: Tensor, decode: Callable[[Tensor], Tensor], name: str) -> None:
        """Errors: UserError where a picture [1, 3, H, W] comes back from its state otherwise than from the VAE alone; `decode`
        is the pipeline's, to pixels in [0, 1]."""
        latents = self._encoded(picture)
        if latents.shape[1:] != self.latents[1:]:
            raise UserError(
                f"{name}: its VAE makes latents {[*latents.shape[1:]]} of a picture, and decodes {[*self.latents[1:]]}"
            )
        alone = ((self.vae.decode(latents)[0].float() + 1.0) / 2.0).clamp(0.0, 1.0).cpu()
        back = decode(self._state(latents)).cpu()
        apart = (back - alone.view(back.shape)).abs().mean() if back.numel() == alone.numel() else torch.tensor(torch.inf)
        if not apart <= MOST_APART:
            raise UserError(f"{name} does not give back a picture that its VAE has encoded, so it can't be trained on pictures")


def find_encoder(pipe: DiffusionPipeline, state: Tensor, finish: Callable[[Tensor], Any]) -> Encoder:
    """By states of this shape [1, ...], which `finish` decodes.

    Errors: UserError where no VAE decodes all elements of a state, each by itself.
    """
    look = partial(_decoded, pipe, finish)
    vae, nothing, pixels = look(torch.zeros_like(state))
    shift = nothing.flatten()
    scale = look(torch.ones_like(state))[1].flatten() - shift
    numbers, order = torch.arange(state.numel(), device=state.device), torch.zeros(shift.shape, device=shift.device)
    exact = shift.numel() == state.numel() and bool((scale != 0).all())
    for power in range(ceil(log(max(2, state.numel()), BASE)) if exact else 0):
        digits = (numbers // BASE**power % BASE).float().view(state.shape)
        seen = (look(digits)[1].flatten() - shift) / scale
        exact &= bool((seen - seen.round()).abs().max() < 0.25)
        order += seen.round() * BASE**power
    if not exact or not torch.equal(order.sort().values, numbers.to(order)):
        raise UserError(f"{type(pipe).__name__} does not decode its latents one by one, so pictures can't become latents")
    height, width = pixels.shape[-2:]
    return Encoder(vae, state.shape, nothing.shape, (height, width), order.long(), scale, shift)


def _decoded(pipe: DiffusionPipeline, finish: Callable[[Tensor], Any], state: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """The VAE that decodes a state, what it is given, float32, and what it makes of that."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    with ExitStack() as stack:
        for module in decoders(pipe).values():
            if "encode" in dir(module):
                stack.enter_context(_noting(module, seen))
        finish(state)
    if len(seen) != 1 or seen[0][1].numel() != state.numel():
        raise UserError(f"{type(pipe).__name__} does not decode its latents by one VAE that encodes too")
    return seen[0]


@contextmanager
def _noting(vae: Any, seen: list[tuple[nn.Module, Tensor, Tensor]]) -> Iterator[None]:
    original = vae.decode

    def decode(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(latents, *args, **kwargs)
        seen.append((vae, latents.detach().float(), output[0]))
        return output

    vars(vae)["decode"] = decode
    try:
        yield
    finally:
        del vars(vae)["decode"]
