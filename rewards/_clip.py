"""CLIP models of open_clip, and how pictures are made ready for a vision tower.

B pictures of H x W pixels, S the side of the tower's pictures, D dimensions of an embedding.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, normalize, resize

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.core.whole import write_json
from flowgrpo.rewards._hub import fetch, reading
from flowgrpo.scoring.twins import randomised

WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Preprocessing:
    """The published transform on float tensors: resize with antialiasing, cut or pad to a square, normalise.

    `fit` says which side becomes S: the shortest (the rest is cut), the longest (the rest is black), or both (squash).
    """

    side: int
    mean: tuple[float, ...] = OPENAI_DATASET_MEAN
    std: tuple[float, ...] = OPENAI_DATASET_STD
    interpolation: str = "bicubic"
    fit: Literal["shortest", "longest", "squash"] = "shortest"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From what open_clip says of a model."""
        size = settings["size"]
        side = size if isinstance(size, int) else size[0]
        return cls(side, settings["mean"], settings["std"], settings["interpolation"], settings["resize_mode"])

    def __call__(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, S, S]. One direction after the other, with limits between, like PIL."""
        height, width = self._size(*pictures.shape[-2:])
        for size in ([pictures.shape[-2], width], [height, width]):
            pictures = resize(pictures, size, InterpolationMode(self.interpolation), antialias=True).clamp(0.0, 1.0)
        return normalize(center_crop(pictures, [self.side, self.side]), list(self.mean), list(self.std))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """What pictures become before they are cut or padded; rounded as torchvision and open_clip do."""
        match self.fit:
            case "shortest":
                return self.side * height // min(height, width), self.side * width // min(height, width)
            case "longest":
                return round(self.side * height / max(height, width)), round(self.side * width / max(height, width))
            case "squash":
                return self.side, self.side


class OpenClip:
    """An open_clip model in float32, whose pictures and texts become unit vectors [B, D].

    `pretrained` is a tag of open_clip, whose weights come from the hub, or the path of a checkpoint; `argument` is what the user
    calls it. A folder in open_clip's own format says itself what model it holds. A text beyond the model's context (mostly 77
    tokens) is cut.
    """

    def __init__(
        self,
        model: str,
        pretrained: str,
        device: torch.device,
        argument: str = "pretrained",
        revision: str | None = None,
    ) -> None:
        if (folder := Path(pretrained).expanduser()).is_dir():
            network = self._of_folder(folder)
            model = f"local-dir:{folder}"
        else:
            network = self._of_checkpoint(model, pretrained, argument, revision)
        self.network, self.device = network.eval().requires_grad_(False).to(device), device
        self.prepare = Preprocessing.of(network.visual.preprocess_cfg)
        self.tokenize = _tokenizer(model)

    def _of_folder(self, folder: Path) -> Any:
        with reading(folder, "a folder of open_clip, with open_clip_config.json and weights"):
            return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)

    def _of_checkpoint(self, model: str, pretrained: str, argument: str, revision: str | None) -> Any:
        if model not in open_clip.list_models():
            raise UserError(f"open_clip has no model '{model}' ({nearest(model, open_clip.list_models())})")
        published = open_clip.get_pretrained_cfg(model, pretrained)
        path = _weights(model, pretrained, published, argument, revision)
        with reading(path, f"a checkpoint of open_clip's {model}"):
            quick = published.get("quick_gelu", False)
            return open_clip.create_model(model, str(path), force_quick_gelu=quick, force_preprocess_cfg=published)

    def images(self, pictures: Tensor) -> Tensor:
        return self.network.encode_image(self.prepare(pictures), normalize=True)

    def texts(self, prompts: list[str]) -> Tensor:
        return self.network.encode_text(self.tokenize(prompts).to(self.device), normalize=True)

    def cosine(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """[B]: of each picture and its prompt."""
        return (self.images(pictures) * self.texts(prompts)).sum(-1)


def save_tiny(folder: Path, width: int = 16) -> Path:
    """A model of random weights in open_clip's own format, with embeddings of `width` numbers and CLIP's vocabulary.

    This draw of them has cosines above 0.
    """
    vision = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    network = randomised(open_clip.CLIP(width, vision, text), ("clip", width, 4))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "open_clip_config.json", {"model_cfg": {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}})
    save_file(network.state_dict(), folder / WEIGHTS)
    return folder


def _weights(model: str, pretrained: str, published: Mapping[str, Any], argument: str, revision: str | None) -> Path:
    if not published and not Path(pretrained).expanduser().is_file():
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise UserError(
            f"argument '{argument}': '{pretrained}' is neither a file nor weights that open_clip knows for {model} "
            f"({nearest(pretrained, tags)})"
        )
    repo, _, name = published.get("hf_hub", "").rpartition("/")
    return fetch(repo, name or WEIGHTS, None if published else pretrained, argument, revision)


def _tokenizer(model: str) -> Callable[[list[str]], Tensor]:
    """Texts to ids [B, W]. CLIP's vocabulary ships with open_clip; that of some other models is fetched from the hub."""
    try:
        return open_clip.get_tokenizer(model)
    except OSError as error:
        raise UserError(f"open_clip can't get the vocabulary of '{model}': {str(error).splitlines()[0]}") from error


def write_vocabulary(folder: Path) -> None:
    """CLIP's own, which open_clip brings, as vocab.json and merges.txt for transformers."""
    tokens = open_clip.SimpleTokenizer()
    words = [*list(tokens.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in tokens.bpe_ranks)])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
