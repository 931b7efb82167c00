"""Pictures as the bytes that codecs and other packages read."""

import numpy as np
from torch import Tensor

from flowgrpo.data.media import rounded


def pixels(images: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [0, 1] -> [B, H, W, 3] uint8, rounded to the nearest, as they are when they are saved."""
    return rounded(images)
