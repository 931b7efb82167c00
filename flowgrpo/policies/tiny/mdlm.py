"""A masked-diffusion language model of a few thousand random weights over one-character ids."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flowgrpo.policies.masked.transformer import MiniMdlm, MiniMdlmConfig

CHARACTERS = "0123456789+=:"
EOS, MASK, PAD = "<eos>", "<mask>", "<pad>"
UNKNOWN = 2
"""Ids of the model that the tokenizer does not know."""


def make_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate([*CHARACTERS, EOS, MASK, PAD])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=EOS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = special or {"eos_token": EOS, "mask_token": MASK, "pad_token": PAD}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def make_model(layers: int = 1, seed: int = 0) -> MiniMdlm:
    torch.manual_seed(seed)
    size = len(CHARACTERS) + 3 + UNKNOWN
    model = MiniMdlm(
        MiniMdlmConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, max_position_embeddings=16
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return model


def save(folder: Path, model: MiniMdlm | None = None, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    (model or make_model()).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder
