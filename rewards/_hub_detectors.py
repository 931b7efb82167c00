"""Object detectors of the hub, through transformers.

B pictures [B, 3, H, W], float in [0, 1]. Tested with tiny random weights only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.ops import batched_nms, masks_to_boxes
from transformers import (
    AutoImageProcessor,
    AutoModelForUniversalSegmentation,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    SwinConfig,
)

from flowgrpo.core.errors import UserError, short
from flowgrpo.core.pretrained import require_vocabulary, whole_models
from flowgrpo.data.prompts.geneval import CLASSES
from flowgrpo.rewards._clip import write_vocabulary
from flowgrpo.rewards._detectors import IN_PROMPTS, Box, Detection, Detector
from flowgrpo.rewards._hub import pinned
from flowgrpo.rewards._package import device_of
from flowgrpo.scoring.twins import Arguments, randomised, tiny

LEAST = 0.05
"""Confidence below which nothing is reported."""
SPELT = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
} | IN_PROMPTS
"""Other spellings of COCO's classes, and the names that GenEval replaces."""


def _tiny_mask2former(folder: Path, arguments: Arguments) -> Arguments:
    swin = {"depths": [1] * 4, "num_heads": [1] * 4, "out_features": [f"stage{i}" for i in range(1, 5)]}
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(image_size=64, embed_dim=8, window_size=4, **swin),
        **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
        **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16),
        **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 5},
        id2label=dict(enumerate(CLASSES)),
    )
    randomised(Mask2FormerForUniversalSegmentation(config), ("mask2former", 0)).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return {**arguments, "model": str(folder), "revision": None}


@tiny(_tiny_mask2former)
class Mask2Former(Detector):
    """Mask2Former for the instances of COCO's 80 classes, under GenEval's names: the official detector of GenEval, with Swin-S.

    `model` is a hub id or a folder that transformers loads, `revision` its commit.
    """

    def __init__(
        self, model: str = "facebook/mask2former-swin-small-coco-instance", revision: str | None = None, device: str = "auto"
    ) -> None:
        self.device = device_of(device)
        self.prepare = _loaded(AutoImageProcessor, model, revision)
        self.network = _loaded(AutoModelForUniversalSegmentation, model, revision, **SAFE).eval().to(self.device)
        labels: Mapping[int, str] = self.network.config.id2label
        self.names = [SPELT.get(labels[i], labels[i]) for i in range(len(labels))]
        self.classes = frozenset(self.names)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[list[Detection]]:
        inputs = self.prepare(images=list(images.to(self.device)), do_rescale=False, return_tensors="pt")
        seen = self.network(pixel_values=inputs["pixel_values"].to(self.device))
        sizes = [tuple(images.shape[2:])] * len(images)
        answers = self.prepare.post_process_instance_segmentation(
            seen, threshold=LEAST, target_sizes=sizes, return_binary_maps=True
        )
        return [self._read(one["segmentation"], one["segments_info"]) for one in answers]

    def _read(self, maps: Tensor | None, segments: Sequence[Mapping[str, Any]]) -> list[Detection]:
        """`maps` [N, H, W], one for each of the N segments."""
        if maps is None or not segments:
            return []
        masks = maps.bool().cpu()
        boxes = [cast(Box, tuple(box)) for box in masks_to_boxes(masks).tolist()]
        names = [self.names[segment["label_id"]] for segment in segments]
        scores = [float(segment["score"]) for segment in segments]
        return [Detection(*one) for one in zip(names, scores, boxes, masks, strict=True)]


def _tiny_owlv2(folder: Path, arguments: Arguments) -> Arguments:
    write_vocabulary(folder)
    words = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={**tower, "vocab_size": len(words), "max_position_embeddings": 16},
        vision_config={**tower, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    randomised(Owlv2ForObjectDetection(config), ("owlv2",)).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), words).save_pretrained(folder)
    return {**arguments, "model": str(folder), "revision": None}


@tiny(_tiny_owlv2)
class Owlv2(Detector):
    """OWLv2, which finds what it is told to look for: `names`, by default GenEval's classes, as "a photo of a NAME".

    Of boxes of one class that share more than `overlap` of their union the most confident stays. It is less sure of itself than
    detectors of fixed classes: lower the reward's `threshold` (0.2) and `counting_threshold` (0.3). `model` is a hub id or a
    folder that transformers loads, `revision` its commit.
    """

    def __init__(
        self,
        model: str = "google/owlv2-base-patch16-ensemble",
        revision: str | None = None,
        names: Sequence[str] = CLASSES,
        overlap: float = 0.5,
        device: str = "auto",
    ) -> None:
        if not names or not 0.0 < overlap <= 1.0:
            raise UserError("owlv2 needs the names of what to look for, and an overlap above 0 and at most 1")
        self.device, self.overlap, self.names = device_of(device), overlap, list(names)
        self.classes = frozenset(self.names)
        self.prepare = _loaded(AutoProcessor, model, revision)
        require_vocabulary(self.prepare.tokenizer)
        ids, most = self.prepare.tokenizer([*map(_asked, names)])["input_ids"], self.prepare.tokenizer.model_max_length
        if long := [name for name, row in zip(names, ids, strict=True) if len(row) > most]:
            raise UserError(f"owlv2 reads at most {most} tokens, and '{short(long[0])}' has more; say it in fewer words")
        self.network = _loaded(AutoModelForZeroShotObjectDetection, model, revision, **SAFE).eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[list[Detection]]:
        words = [f"a photo of a {name}" for name in self.names]
        inputs = self.prepare(
            text=[words] * len(images),
            images=list(images.to(self.device)),
            images_kwargs={"do_rescale": False},
            return_tensors="pt",
        )
        seen = self.network(**inputs.to(self.device))
        answers = self.prepare.image_processor.post_process_object_detection(
            seen, threshold=LEAST, target_sizes=[tuple(images.shape[2:])] * len(images)
        )
        return [self._read(one["boxes"], one["scores"], one["labels"]) for one in answers]

    def _read(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Detection]:
        separate = batched_nms(boxes, scores, labels, self.overlap)
        rows = zip(labels[separate].tolist(), scores[separate].tolist(), boxes[separate].tolist(), strict=True)
        return [Detection(self.names[label], score, cast(Box, tuple(box))) for label, score, box in rows]


def _asked(name: str) -> str:
    return f"a photo of a {name}"


SAFE = {"use_safetensors": True, "dtype": "float32"}


def _loaded(kind: Any, model: str, revision: str | None, **options: Any) -> Any:
    """What transformers makes of a folder or a repository, at its pinned commit where the user names none."""
    try:
        with whole_models():
            return kind.from_pretrained(model, revision=revision or pinned(model), trust_remote_code=False, **options)
    except UserError:
        raise
    except Exception as error:  # the hub, or a folder that holds something else
        said = shorten(str(error), 200, placeholder=" ...")
        raise UserError(
            f"the detector '{model}' can't be loaded ({type(error).__name__}: {said}); download it and give its folder as "
            "argument 'model'"
        ) from error
