"""Statistics of pictures that move when a reward is hacked: detail, colour, sameness.

To measure with weight 0 and watch as sentinels, not to train on.

B samples of H x W pixels.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.rounding import SHARE
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import blurred, noisy, photos

LUMA = (0.299, 0.587, 0.114)
statistic = partial(card, reads="images", range=(0.0, 1.0), licence="Apache-2.0", source="flowgrpo")


def _one_group(*names: str) -> Samples:
    return replace(photos(*names), group=[0] * len(names))


def _grey() -> Samples:
    colourful = photos()
    return replace(colourful, outputs=_luma(colourful.images)[:, None].expand_as(colourful.images))


@statistic(
    better="more of the variance of the brightness is detail finer than 4 pixels",
    ladder=lambda: [blurred(photos(), 2.0), photos(), noisy(photos(), 0.2)],
)
def high_frequency(samples: Samples) -> list[float]:
    """Share of the spectral energy of the brightness, its mean left out, above half of the highest frequency of either axis.

    0 for a picture of one brightness, whose deviations from the mean are no larger than rounding.
    """
    luma = _luma(samples.images)
    energy = torch.fft.fft2(luma - luma.mean((1, 2), keepdim=True)).abs().square()
    height, width = luma.shape[1:]
    fine = torch.maximum(torch.fft.fftfreq(height).abs()[:, None], torch.fft.fftfreq(width).abs()[None]) > 0.25
    total, noise = energy.sum((1, 2)), (height * width * SHARE * luma.amax((1, 2))).square().clamp_min(1e-9)
    return torch.where(total > noise, (energy * fine).sum((1, 2)) / total.maximum(noise), 0.0).tolist()


@statistic(better="more colourful: mean saturation of the pixels, as in HSV", ladder=lambda: [_grey(), photos()])
def saturation(samples: Samples) -> list[float]:
    high, low = samples.images.amax(1), samples.images.amin(1)
    return ((high - low) / high.clamp_min(1e-9)).mean((1, 2)).tolist()


@statistic(
    better="further from the other samples of its group",
    compares=True,
    ladder=lambda: [_one_group("coffee", "coffee"), _one_group("coffee", "rocket")],
)
def diversity(samples: Samples) -> list[float]:
    """Root mean square difference of the pixels, averaged over the other members of the sample's group."""
    flat = samples.images.flatten(1)
    group = torch.tensor(samples.group)
    return [_distance(flat, group, i) for i in range(len(samples))]


def _distance(flat: Tensor, group: Tensor, i: int) -> float:
    others = (group == group[i]) & (torch.arange(len(group)) != i)
    if not others.any():
        raise UserError("statistics:diversity compares the samples of a prompt, and there is one sample only")
    return (flat[others] - flat[i]).square().mean(1).sqrt().mean().item()


def _luma(images: Tensor) -> Tensor:
    """[B, H, W]"""
    return torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA))
