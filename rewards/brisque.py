"""BRISQUE: how natural is a picture's local contrast? It needs neither prompt nor reference (Mittal et al., IEEE TIP 2012).

Made for photographs. Drawings and flat surfaces have no such statistics and score badly, whatever they show. The trained
regression is read from the package `brisque`; the features are computed here, as its solver diverges on strong noise.

H x W pixels.
"""

import math

import cv2
import numpy as np
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._hub import reading
from flowgrpo.rewards._package import folder, package
from flowgrpo.scoring.card import EVERYTHING, card
from flowgrpo.scoring.exemplars import blurred, noisy, photos

LUMA = np.array([0.299, 0.587, 0.114])
"""As in the authors' code; the package weighs colours otherwise, which moves BRISQUE by up to 0.6 on the shipped photographs."""
LEAST = 32
# fmt: off
LOW = np.array([
    0.336999, 0.019667, 0.230000, -0.125959, 0.000167, 0.000616, 0.231000, -0.125873, 0.000165,
    0.000600, 0.241000, -0.128814, 0.000179, 0.000386, 0.243000, -0.133080, 0.000182, 0.000421,
    0.436998, 0.016929, 0.247000, -0.200231, 0.000104, 0.000834, 0.257000, -0.200017, 0.000112,
    0.000876, 0.257000, -0.155072, 0.000112, 0.000356, 0.258000, -0.154374, 0.000117, 0.000351,
])
HIGH = np.array([
    9.999411, 0.807472, 1.644021, 0.202917, 0.712384, 0.468672, 1.644021, 0.169548, 0.713132,
    0.467896, 1.553016, 0.101368, 0.687324, 0.533087, 1.554016, 0.101000, 0.689177, 0.533133,
    3.639918, 0.800955, 1.096995, 0.175286, 0.755547, 0.399270, 1.095995, 0.155928, 0.751488,
    0.402398, 1.041992, 0.093209, 0.623516, 0.532925, 1.042992, 0.093714, 0.621958, 0.534484,
])
# fmt: on
"""Published range of each feature, 18 at full and 18 at half size, over the pictures that the regression was trained on."""


def moment_ratio(shape: float) -> float:
    """(E|x|)^2 / E x^2 of a generalised Gaussian; it rises with the shape."""
    return math.gamma(2 / shape) ** 2 / (math.gamma(1 / shape) * math.gamma(3 / shape))


SHAPES = np.arange(0.2, 10.0, 0.001)
RATIOS = np.array([moment_ratio(shape) for shape in SHAPES])


@card(
    reads="images",
    range=EVERYTHING,
    better="more like an undistorted photograph",
    licence="Apache-2.0 (package brisque); LIVE, UT Austin, asks to be cited for the trained model",
    source="Mittal, Moorthy, Bovik, IEEE TIP 21(12), 2012; package brisque 0.2",
    ladder=lambda: [noisy(photos(), 0.2), blurred(photos(), 1.0), photos()],
)
class Brisque:
    """-BRISQUE / 100, without limits: -0.21 to 0.09 on the four shipped photographs, down to about -1.2 on spoilt ones.

    A picture to which no law can be fitted (one flat surface) has -1.56, the regression's value far from all that it knows.
    """

    def __init__(self) -> None:
        self.libsvm = package("libsvm.svmutil")
        path = folder("brisque") / "models" / "svm.txt"
        with reading(path, "the regression that brisque 0.2 ships"):
            self.model = self.libsvm.svm_load_model(str(path.resolve(strict=True)))

    def __call__(self, samples: Samples) -> list[float]:
        if min(samples.images.shape[2:]) < LEAST:
            raise UserError(f"BRISQUE needs pictures of at least {LEAST} x {LEAST} pixels, not {list(samples.images.shape[2:])}")
        scaled = [2 * (features(picture) - LOW) / (HIGH - LOW) - 1 for picture in samples.images]
        inputs = [np.where(np.isnan(x), np.inf, x).tolist() for x in scaled]
        values, _, _ = self.libsvm.svm_predict([0.0] * len(inputs), inputs, self.model, "-q")
        return [-value / 100 for value in values]


def features(picture: Tensor) -> np.ndarray:
    """[36] of a picture [3, H, W]: 18 at its own size, 18 at half of it; NaN where no law can be fitted."""
    grey = picture.double().permute(1, 2, 0).numpy() @ LUMA
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return np.concatenate([_features(grey), _features(half)])


def _features(grey: np.ndarray) -> np.ndarray:
    """[18], Table I: shape and variance of the contrast, then shape, mean and variances of four products of neighbours."""
    x = contrast(grey)
    shape, _, left, right = fit(x)
    pairs = [(x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:-1, :-1], x[1:, 1:]), (x[1:, :-1], x[:-1, 1:])]
    return np.concatenate([[shape, (left + right) / 2], *(fit(a * b) for a, b in pairs)])


def contrast(grey: np.ndarray) -> np.ndarray:
    """[H, W]: mean-subtracted contrast-normalised luminance under a Gaussian window of 7 x 7 (equations 1 to 3, C = 1 / 255)."""
    mean = _windowed(grey)
    deviation = np.sqrt(np.abs(_windowed(grey**2) - mean**2))
    return (grey - mean) / (deviation + 1 / 255)


def _windowed(grey: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(grey, (7, 7), 7 / 6, borderType=cv2.BORDER_CONSTANT)


def fit(x: np.ndarray) -> tuple[float, float, float, float]:
    """Shape, mean, left and right variance of the asymmetric generalised Gaussian with the moments of x (Lasmar et al., 2009)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (np.sum(x**2, where=side) / np.sum(side) for side in (x < 0, x >= 0))
        skew = np.sqrt(left / right)
        ratio = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = float(np.interp(wanted, RATIOS, SHAPES))
    width = math.gamma(2 / shape) / math.sqrt(math.gamma(1 / shape) * math.gamma(3 / shape))
    return shape, (np.sqrt(right) - np.sqrt(left)) * width, left, right
