"""Object detectors: pictures -> which objects are in them, and where.

B pictures [B, 3, H, W], float in [0, 1]. A detector is any callable that returns for each of them a list of `Detection`, or
of plain tuples with the same fields.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.rewards._hub import reading, tensors, torchvision_weights
from flowgrpo.rewards._package import device_of, package
from flowgrpo.rewards._pixels import pixels
from flowgrpo.rewards.ocr import Ocr
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.scoring.twins import Arguments, randomised, tiny, twin

BATCH = 8
MODELS = (
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
IN_PROMPTS = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's names that GenEval replaces."""

Box = tuple[float, float, float, float]


class Detection(NamedTuple):
    """`box` is (left, top, right, bottom) in pixels, `score` the confidence, `mask` bool [H, W]."""

    name: str
    score: float
    box: Box
    mask: Tensor | None = None


Detect = Callable[[Tensor], Sequence[Sequence[Any]]]


class Detector(ABC):
    """A detector that knows which classes it can find, so that prompts with others are refused."""

    classes: frozenset[str]

    @abstractmethod
    def __call__(self, images: Tensor) -> list[list[Detection]]:
        """Of each picture in [B, 3, H, W]."""


def load_detector(use: str, arguments: Mapping[str, Any]) -> Detect:
    """One of `BUILT_IN`, `module:attr` or `file.py:attr`; a class is constructed with the arguments."""
    if use not in BUILT_IN and ":" not in use:
        raise UserError(f"unknown detector '{use}' ({nearest(use, BUILT_IN)}, or your own as module:attr or file.py:attr)")
    return cast(Detect, load_reward(BUILT_IN.get(use, use), arguments))


def tiny_detector(folder: Path, arguments: Arguments) -> Arguments:
    """The twin of a reward whose argument `detector` is made with its `arguments`. Whatever random weights find counts."""
    use, sure = str(arguments["detector"]), {"threshold": 0.0, "counting_threshold": 0.0}
    return {**arguments, **sure, "arguments": twin(BUILT_IN.get(use, use), arguments.get("arguments"), folder / "detector")}


def detected(detect: Detect, images: Tensor) -> Iterator[list[Detection]]:
    """Picture by picture, in few passes; what is no detection is refused."""
    for batch in images.split(BATCH):
        detections = detect(batch)
        if len(detections) != len(batch):
            raise UserError(f"the detector must return a list for each of {len(batch)} pictures, not {len(detections)}")
        yield from ([_checked(one, images.shape[2:]) for one in picture] for picture in detections)


def _checked(one: Sequence[Any], size: torch.Size) -> Detection:
    match one:
        case [str(name), score, [left, top, right, bottom], *mask] if (
            score >= 0 and -inf < left <= right < inf and -inf < top <= bottom < inf and _masks(mask, size)
        ):
            return Detection(name, float(score), (float(left), float(top), float(right), float(bottom)), *mask)
    raise UserError(
        f"the detector found {str(one)[:100]}, which is not (class name, score, (left, top, right, bottom)) and perhaps a mask, "
        "a tensor of bool [H, W]"
    )


def _masks(mask: Sequence[Any], size: torch.Size) -> bool:
    return not mask or (len(mask) == 1 and (mask[0] is None or (mask[0].dtype == torch.bool and mask[0].shape == size)))


def _tiny_torchvision(folder: Path, arguments: Arguments) -> Arguments:
    """The smallest of them."""
    model = MODELS[-1]
    names = len(get_model_weights(model).DEFAULT.meta["categories"])
    network = get_model(model, weights=None, weights_backbone=None, num_classes=names)
    torch.save(randomised(network, ("torchvision",)).state_dict(), folder / "weights.pth")
    return {**arguments, "model": model, "weights": str(folder / "weights.pth")}


@tiny(_tiny_torchvision)
class Torchvision(Detector):
    """A detector of torchvision for COCO's 80 classes, under GenEval's names.

    `weights` is a file with the model's state dict, safetensors or PyTorch; without it torchvision downloads its own once.
    """

    def __init__(self, model: str = MODELS[0], weights: str | None = None, device: str = "auto") -> None:
        if model not in MODELS:
            raise UserError(f"'{model}' is none of torchvision's detectors that can be used ({nearest(model, MODELS)})")
        published = get_model_weights(model).DEFAULT
        self.names = [IN_PROMPTS.get(name, name) for name in published.meta["categories"]]
        self.classes = frozenset(self.names) - {"__background__", "N/A"}
        self.device = device_of(device)
        network = get_model(model, weights=None, weights_backbone=None, num_classes=len(self.names))
        if weights is None:
            network.load_state_dict(torchvision_weights(published, "weights"))
        else:
            path = Path(weights).expanduser()
            with reading(path, f"a state dict of torchvision's {model}"):
                network.load_state_dict(tensors(path))
        self.network = network.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[list[Detection]]:
        return [self._read(answer) for answer in self.network(list(images.to(self.device)))]

    def _read(self, answer: dict[str, Tensor]) -> list[Detection]:
        names = [self.names[label] for label in answer["labels"].tolist()]
        boxes = [cast(Box, tuple(box)) for box in answer["boxes"].tolist()]
        masks = answer["masks"][:, 0].gt(0.5).cpu() if "masks" in answer else [None] * len(names)
        return [Detection(*one) for one in zip(names, answer["scores"].tolist(), boxes, masks, strict=True)]


class Faces(Detector):
    """Upright faces, seen from the front, as class "face", by scikit-image's cascade of local binary patterns.

    Finds those of at least an eighth of the picture's shorter side and 24 pixels. It has no confidence: every score is 1.
    """

    classes = frozenset({"face"})

    def __init__(self) -> None:
        trained = package("skimage.data").lbp_frontal_face_cascade_filename()
        self.cascade = package("skimage.feature").Cascade(trained)

    def __call__(self, images: Tensor) -> list[list[Detection]]:
        return [self._faces(image) for image in images]

    def _faces(self, image: Tensor) -> list[Detection]:
        side = min(image.shape[1:])
        least = max(24, side // 8)
        faces = self.cascade.detect_multi_scale(
            img=image.permute(1, 2, 0).double().numpy(),
            scale_factor=1.2,
            step_ratio=1.0,
            min_size=(least, least),
            max_size=(side, side),
        )
        corners = [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in faces]
        return [Detection("face", 1.0, cast(Box, tuple(map(float, corner)))) for corner in corners]


class Text(Detector):
    """Lines of text, whatever they say, as class "text", by RapidOCR. The score is how sure the reading is.

    Patterns in photographs are taken for text with a low score; a threshold of 0.9 leaves them out.
    """

    classes = frozenset({"text"})

    def __init__(self) -> None:
        self.engine = Ocr().engine

    def __call__(self, images: Tensor) -> list[list[Detection]]:
        return [self._lines(picture) for picture in pixels(images.flip(1))]

    def _lines(self, picture: np.ndarray) -> list[Detection]:
        """Of [H, W, 3], blue first."""
        lines = self.engine(picture)
        if lines.boxes is None:
            return []
        boxes = [(*corners.min(0).tolist(), *corners.max(0).tolist()) for corners in lines.boxes]
        return [Detection("text", float(score), cast(Box, box)) for score, box in zip(lines.scores, boxes, strict=True)]


BUILT_IN = {name.lower(): f"{__name__}:{name}" for name in ("Torchvision", "Faces", "Text")}
BUILT_IN |= {name.lower(): f"flowgrpo.rewards._hub_detectors:{name}" for name in ("Mask2Former", "Owlv2")}
