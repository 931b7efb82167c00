"""ImageReward v1.0 (Xu et al. 2023, arXiv 2304.05977): would people prefer the picture for its prompt?

BLIP's text encoder reads the prompt and looks at the picture through cross attention; a head on its first token gives the
score, normalised to mean 0 and deviation 1 over the authors' data. Pinned to commits. Tested with tiny random weights only.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from flowgrpo.rewards._clip import Preprocessing
from flowgrpo.rewards._hub import check_vocabulary, fetch, reading, tensors
from flowgrpo.rewards._preference import Head, Preference, captions_ladder
from flowgrpo.scoring.card import EVERYTHING, card
from flowgrpo.scoring.twins import Arguments, randomised, tiny

REPO, FILE = "THUDM/ImageReward", "ImageReward.pt"
TOKENIZER, VOCABULARY = "google-bert/bert-base-uncased", "vocab.txt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35

VISION = BlipVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=224,
    patch_size=16,
    layer_norm_eps=1e-6,
)
TEXT = BlipTextConfig(vocab_size=30524, encoder_hidden_size=1024, num_attention_heads=12)
"""BLIP's ViT-L/16, and BERT-base with cross attention in every layer; transformers' defaults have other heads and epsilons."""

RENAMED = {
    "vision.embeddings.class_embedding": "blip.visual_encoder.cls_token",
    "vision.embeddings.position_embedding": "blip.visual_encoder.pos_embed",
    "vision.embeddings.patch_embedding": "blip.visual_encoder.patch_embed.proj",
    "vision.encoder.layers": "blip.visual_encoder.blocks",
    "vision.post_layernorm": "blip.visual_encoder.norm",
    ".self_attn.qkv": ".attn.qkv",
    ".self_attn.projection": ".attn.proj",
    ".layer_norm": ".norm",
    "text.": "blip.text_encoder.",
}
"""Parts of the names of `Ranker`'s parameters, and what the checkpoint calls them."""

UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\..+|blip\.text_encoder\.embeddings\.position_ids")
"""Also in the checkpoint: the projections of BLIP's contrastive loss, which the score does not use, and the numbers 0, 1, ..."""


class Ranker(nn.Module):
    """BLIP's two encoders and the head on the first token; `sizes` are other values of their configs."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        super().__init__()
        vision, text = (type(config).from_dict({**config.to_dict(), **(sizes or {})}) for config in (VISION, TEXT))
        self.side, self.words = vision.image_size, text.vocab_size
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.mlp = Head(text.hidden_size)

    def forward(self, pictures: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """[B] for pictures [B, 3, S, S] and W words [B, W], of which those where the mask is 1 count."""
        seen = self.vision(pictures).last_hidden_state
        read = self.text(words, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        return self.mlp(read[:, 0])


def published(name: str) -> str:
    """What the checkpoint calls a parameter of `Ranker`."""
    for ours, theirs in RENAMED.items():
        name = name.replace(ours, theirs)
    return name


def load(weights: Mapping[str, Tensor], sizes: Mapping[str, int] | None = None) -> Ranker:
    """Strict: every parameter is there, and nothing is left over but what is unused."""
    ranker = Ranker(sizes)
    left = {name: weight for name, weight in weights.items() if not UNUSED.fullmatch(name)}
    renamed = {name: left.pop(published(name)) for name in ranker.state_dict()}
    ranker.load_state_dict(renamed | left)
    return ranker


def read_vocabulary(path: Path, words: int) -> BertTokenizer:
    """The words of bert-base-uncased, and the two that BLIP adds."""
    with reading(path, "the vocabulary of bert-base-uncased"):
        tokenizer = BertTokenizer(str(path))
        tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    check_vocabulary(path, len(tokenizer), words)
    return tokenizer


TINY = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "encoder_hidden_size": 128,
    "image_size": 32,
    "vocab_size": 33,
    "bos_token_id": 31,
    "sep_token_id": 3,
}


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    """A checkpoint with the published names, and a vocabulary of letters."""
    ranker = randomised(Ranker(TINY), ("image_reward",))
    weights = {published(name): weight for name, weight in ranker.state_dict().items()}
    torch.save(weights, folder / FILE)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / VOCABULARY).write_text("\n".join(words), encoding="utf-8")
    files = {"checkpoint": str(folder / FILE), "vocabulary": str(folder / VOCABULARY)}
    return {**arguments, **files, "revision": None, "sizes": TINY}


@tiny(_tiny)
@card(
    reads="images",
    differentiable=True,
    range=EVERYTHING,
    better="people would prefer the picture for its prompt; about -2 to 2, 0 is average",
    licence="Apache-2.0",
    source="ImageReward, arXiv 2304.05977",
    ladder=captions_ladder,
)
class ImageReward(Preference):
    """`checkpoint` is the path of ImageReward.pt, `vocabulary` that of the vocab.txt of bert-base-uncased.

    `revision` is that of the checkpoint. A checkpoint of other `sizes` names them as BLIP's configs do, those of both encoders at
    once. A prompt beyond 35 tokens is cut.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        vocabulary: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        batch: int = 16,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(device, batch)
        words = fetch(TOKENIZER, VOCABULARY, vocabulary, "vocabulary")
        path = fetch(REPO, FILE, checkpoint, "checkpoint", revision)
        with reading(path, "ImageReward's checkpoint"):
            ranker = load(tensors(path), sizes)
        self.tokenizer = read_vocabulary(words, ranker.words)
        self.ranker = ranker.eval().requires_grad_(False).to(self.device)
        self.prepare = Preprocessing(ranker.side)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        words = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        words = words.to(self.device)
        return (self.ranker(self.prepare(pictures), words.input_ids, words.attention_mask) - MEAN) / STD
