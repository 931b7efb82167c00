"""Size as a JPEG at quality 95, as in DDPO (arXiv 2305.13301): the classic rewards that need no model. 1 kB is 1000 bytes."""

import io
import math
from functools import partial

import numpy as np
from PIL import Image

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._pixels import pixels
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import blurred, noisy, photos

QUALITY = 95

sized = partial(card, reads="images", licence="Apache-2.0", source="DDPO, arXiv 2305.13301")


def _ladder() -> list[Samples]:
    return [noisy(photos(), 0.2), photos(), blurred(photos(), 2.0)]


@sized(range=(-math.inf, 0.0), better="fewer kilobytes: minus their number", ladder=_ladder)
def compressibility(samples: Samples) -> list[float]:
    return [-_kilobytes(picture) for picture in pixels(samples.images)]


@sized(range=(0.0, math.inf), better="more kilobytes", ladder=lambda: _ladder()[::-1])
def incompressibility(samples: Samples) -> list[float]:
    return [_kilobytes(picture) for picture in pixels(samples.images)]


def _kilobytes(picture: np.ndarray) -> float:
    """Of [H, W, 3] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY)
    return buffer.tell() / 1000
