"""The colour of an object, as one of the ten names of GenEval's prompts. H, W pixels of a picture, h, w of a box, N pixels."""

from collections import Counter
from dataclasses import dataclass
from math import ceil, floor

import cv2
import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from flowgrpo.rewards._detectors import Detection

CSS = {
    "red": "red crimson firebrick darkred indianred",
    "orange": "orange darkorange coral orangered",
    "yellow": "yellow gold khaki",
    "green": "green lime limegreen forestgreen seagreen olivedrab yellowgreen lightgreen darkgreen darkolivegreen palegreen "
    "darkseagreen",
    "blue": "blue navy royalblue steelblue dodgerblue skyblue lightblue cyan midnightblue mediumblue slateblue cornflowerblue",
    "purple": "purple indigo blueviolet mediumorchid mediumpurple rebeccapurple darkviolet",
    "pink": "pink hotpink deeppink lightpink palevioletred lightcoral violet",
    "brown": "brown saddlebrown sienna peru tan maroon",
    "black": "black dimgray",
    "white": "white gainsboro silver snow",
}
"""The CSS colours that stand for each name."""
PIXELS = 10_000


@dataclass(frozen=True, eq=False)
class Crop:
    """What is in a detection's box: its class, pixels [3, h, w] in [0, 1], and which of them are the object's, bool [h, w]."""

    name: str
    pixels: Tensor
    mask: Tensor


def crop(picture: Tensor, detection: Detection) -> Crop:
    """From [3, H, W]. Without a mask, the middle half of the box's width and height is taken for the object."""
    rows = _inside(detection.box[1], detection.box[3], picture.shape[1])
    columns = _inside(detection.box[0], detection.box[2], picture.shape[2])
    pixels = picture[:, rows, columns]
    mask = _middle(*pixels.shape[1:]) if detection.mask is None else detection.mask[rows, columns]
    return Crop(detection.name, pixels, mask if mask.any() else torch.ones_like(mask))


def _inside(low: float, high: float, length: int) -> slice:
    """At least one pixel of `length`."""
    start = min(max(floor(low), 0), length - 1)
    return slice(start, max(min(ceil(high), length), start + 1))


def _middle(height: int, width: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return mask


def nearest_color(crop: Crop) -> str:
    """The name that most of the object's pixels have, of 10,000 evenly spread ones: that of the nearest CSS colour in CIELAB."""
    pixels = _lab(crop.pixels[:, crop.mask].T.numpy())
    pixels = pixels[:: ceil(len(pixels) / PIXELS)]
    distances = np.linalg.norm(pixels[:, None] - PROTOTYPES, axis=2)
    return Counter(NAMES[i] for i in distances.argmin(1)).most_common(1)[0][0]


def _lab(rgb: np.ndarray) -> np.ndarray:
    """[N, 3] in [0, 1] -> [N, 3] in CIELAB."""
    return cv2.cvtColor(np.ascontiguousarray(rgb[None], np.float32), cv2.COLOR_RGB2LAB)[0]


NAMES = [name for name, shades in CSS.items() for _ in shades.split()]
PROTOTYPES = _lab(np.array([ImageColor.getrgb(shade) for shades in CSS.values() for shade in shades.split()]) / 255)
