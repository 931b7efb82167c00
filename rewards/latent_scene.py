"""The scene judge on latents of mini-sd3: what `scene` would say of the picture, from what it is decoded from, finished or noisy.

A network of 0.1 million parameters, mini-judge (`assets/mini-judge`), trained on what `scene` says of samples of mini-sd3 and of
drawn scenes. Its card says how far the two agree. On states under noise it says what it expects of the picture.
"""

from dataclasses import replace
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import assets
from flowgrpo.data.samples import Latents, Samples
from flowgrpo.rewards import scene
from flowgrpo.rewards._latent_judge import LATENTS, LatentJudge, asked, encoded
from flowgrpo.scoring.card import card

BATCH = 512


def _ladder() -> list[Samples]:
    """The ladder of `scene`, as mini-sd3's VAE encodes it: a red circle is asked for, a yellow triangle comes first."""
    vae = AutoencoderKL.from_pretrained(assets() / "mini-sd3" / "vae", dtype=torch.float32)
    return [_encoded(vae, rung) for rung in scene._ladder()]


@torch.no_grad()
def _encoded(vae: AutoencoderKL, samples: Samples) -> Samples:
    pictures = F.interpolate(samples.images, (32, 32), mode="area")
    latents = vae.encode(2.0 * pictures - 1.0).latent_dist.mode()
    states = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return replace(samples, outputs=None, states=Latents(states, torch.ones(len(states)), torch.zeros(len(states))))


judged = partial(
    card,
    reads="latents",
    noisy=True,
    differentiable=True,
    range=(0.0, 1.0),
    licence="Apache-2.0",
    source="flowgrpo, assets/mini-judge",
    row='GenEval\'s, of one or two objects: {"include": [{"class", "count", "color"?, "size"?, "position"?}], "background"?}',
    ladder=_ladder,
    check=lambda _, prompt: encoded(prompt.metadata),
)


@judged(better="it is likelier that every stated fact holds and nothing else is there")
def strict(samples: Samples) -> Tensor:
    return _chances(samples)[:, -1]


@judged(better="more of the stated facts are likely to hold")
def soft(samples: Samples) -> Tensor:
    chances = _chances(samples)
    return torch.stack([chances[i, asked(row)].mean() for i, row in enumerate(samples.metadata)])


@lru_cache(maxsize=1)
def _chances(samples: Samples) -> Tensor:
    """[B, Q]; looked at once when a run uses both scores."""
    latents = samples.latents
    if latents.states.shape[1:] != LATENTS:
        shape = list(latents.states.shape[1:])
        raise UserError(f"mini-judge knows the latents of mini-sd3, {list(LATENTS)}, and these are {shape}")
    if not torch.allclose(latents.alpha, 1.0 - latents.sigma, atol=1e-4):
        raise UserError("mini-judge knows the noise levels of flow matching, alpha = 1 - sigma, and these are others")
    rows = torch.stack([encoded(row) for row in samples.metadata])
    columns = (latents.states.cpu(), latents.sigma.cpu(), rows)
    logits = [_judge()(*part) for part in zip(*(column.split(BATCH) for column in columns), strict=True)]
    return torch.cat(logits).sigmoid()


@lru_cache
def _judge() -> LatentJudge:
    judge = LatentJudge()
    weights = load_file(assets() / "mini-judge" / "model.safetensors")
    judge.load_state_dict({name: value.float() for name, value in weights.items()})
    return judge.eval().requires_grad_(False)
