"""Masked language models at the sizes of their published configs, with random weights.

Their own code comes with their weights, so a class of transformers with the same blocks stands for it, without its causal mask.
"""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from flowgrpo.policies.tiny.mdlm import DREAM_CHAT, EOS, PAD

DREAM: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "use_cache": False,
    "is_causal": False,
}
WORDS = 8192
"""Of a tokenizer that is made for some prompts, so that they have about as many ids as with a published one."""


def dream(texts: Iterable[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Also DiffuCoder, which was trained from the same model of 7 billion weights."""
    return Qwen2ForCausalLM(Qwen2Config(**DREAM)), byte_pairs(texts, DREAM_CHAT, ["<|im_start|>", "<|im_end|>"])


def byte_pairs(texts: Iterable[str], chat: str, special: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=WORDS, special_tokens=[PAD, EOS, *special], initial_alphabet=letters, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, extra_special_tokens=special, chat_template=chat
    )
