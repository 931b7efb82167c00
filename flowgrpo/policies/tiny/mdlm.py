"""Masked-diffusion language models of a few thousand random weights.

LLaDA and Dream are code of their own that comes with their weights, so here a class of ours (`MiniMdlm`) stands for them, which
is asked in the same way: an id for the mask, a chat template in their form, ids that are bytes.
"""

from collections.abc import Callable
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
    size = len(CHARACTERS) + 3 + UNKNOWN
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 16}
    return random_model(MiniMdlmConfig(vocab_size=size, num_hidden_layers=layers, **sizes), seed)


def random_model(config: MiniMdlmConfig, seed: int) -> MiniMdlm:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = MiniMdlm(config)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return model


def save(folder: Path, model: MiniMdlm | None = None, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    (model or make_model()).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return folder


POSITIONS = 4096
"""Most ids of a canvas of `llada` and `dream`."""
LLADA_CHAT = """
{%- for message in messages -%}
<|startoftext|><|start_header_id|>{{ message.role }}<|end_header_id|>{{ "\n\n" + message.content }}<|eot_id|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|start_header_id|>assistant<|end_header_id|>{{ "\n\n" }}{%- endif -%}
"""
DREAM_CHAT = """
{%- for message in messages -%}
<|im_start|>{{ message.role + "\n" + message.content }}<|im_end|>{{ "\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ "\n" }}{%- endif -%}
"""


def llada(folder: Path) -> None:
    """Row i of the logits is about position i."""
    _save_bytes(folder, LLADA_CHAT, ["<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|mdm_mask|>"])


def dream(folder: Path) -> None:
    """Asked with `shift`: row i of the logits is about position i + 1."""
    _save_bytes(folder, DREAM_CHAT, ["<|im_start|>", "<|im_end|>", "<|mask|>"])


def _save_bytes(folder: Path, chat: str, special: list[str]) -> None:
    """A model over bytes; the last of the special tokens is the mask."""
    names = ["<pad>", EOS, *special]
    vocabulary = {token: i for i, token in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=POSITIONS,
        pad_token="<pad>",
        eos_token=EOS,
        mask_token=special[-1],
        extra_special_tokens=special[:-1],
        chat_template=chat,
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": POSITIONS}
    random_model(MiniMdlmConfig(vocab_size=len(vocabulary), num_hidden_layers=1, **sizes), 0).save_pretrained(folder)


LANGUAGE: dict[str, Callable[[Path], None]] = {"llada": llada, "dream": dream}
"""Builders by name; each saves model and tokenizer in a folder."""
