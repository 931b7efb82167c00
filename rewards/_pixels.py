"""Pictures as the bytes that codecs and other packages read."""

import numpy as np
from torch import Tensor


def pixels(images: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [0, 1] -> [B, H, W, 3] uint8, rounded to the nearest."""
    return images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
