"""Components that several tiny pipelines share."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models import ModelMixin
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

Model = TypeVar("Model", bound=nn.Module)

WIDTH = 32
"""Of every text encoder."""
LENGTH = 64
"""Most tokens of a text."""


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """Bytes for tokens, in the classes and files of CLIP."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(vocab), str(merges), model_max_length=LENGTH, pad_token="<|endoftext|>", unk_token="<|endoftext|>"
        )


def byte_tokenizer(*special: str, **more: Any) -> PreTrainedTokenizerFast:
    """Bytes for tokens: ids 0 <pad>, 1 </s>, then `special`, then bytes. `more` goes to the tokenizer (chat_template ..)."""
    names = ["<pad>", "</s>", *special]
    vocabulary = {token: i for i, token in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens=list(special),
        **more,
    )


def clip_config(**changes: Any) -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    sizes = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return CLIPTextConfig(
        **{"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "projection_dim": WIDTH, **sizes, **ids, **changes}
    )


def clip(**changes: Any) -> CLIPTextModel:
    return CLIPTextModel(clip_config(**changes))


def clip_with_projection(**changes: Any) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(clip_config(**changes))


def t5(**changes: Any) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**{**_t5_sizes(), **changes}))


def umt5(**changes: Any) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**{**_t5_sizes(), **changes}))


def _t5_sizes() -> dict[str, int]:
    return {"vocab_size": 300, "d_model": WIDTH, "d_ff": 37, "num_layers": 1, "num_heads": 4, "d_kv": 8}


def vae(channels: int = 4, levels: int = 1, **changes: Any) -> AutoencoderKL:
    """A picture VAE that shrinks by 2 ** (levels - 1)."""
    sizes: dict[str, Any] = {
        "block_out_channels": (8,) * levels,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "latent_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "shift_factor": 0.1,
        "scaling_factor": 1.5,
    }
    return AutoencoderKL(**{**sizes, **changes})


def wan_vae(**changes: Any) -> AutoencoderKLWan:
    """A clip VAE that shrinks by 8 in space and 4 in time."""
    sizes = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return AutoencoderKLWan(**{**sizes, "temperal_downsample": [False, True, True], **changes})


def clip_vision(**changes: Any) -> CLIPVisionModel:
    """For pictures of 16 x 16, 5 tokens each."""
    return CLIPVisionModel(clip_vision_config(**changes))


def clip_vision_config(**changes: Any) -> CLIPVisionConfig:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPVisionConfig(**{**sizes, "image_size": 16, "patch_size": 8, "projection_dim": WIDTH, **changes})


def clip_image_processor(size: int = 16) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
"""Special tokens of Qwen, with ids from 2 on."""
QWEN_CHAT = """
{%- for message in messages -%}
<|im_start|>{{ message.role + "\n" }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}{{ part.text }}
{%- elif part.type == "image" -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == "video" -%}<|vision_start|><|video_pad|><|vision_end|>
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>{{ "\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ "\n" }}{%- endif -%}
"""


def language_sizes(**changes: Any) -> dict[str, Any]:
    """Of a decoder-only language model over the ids of a `byte_tokenizer`."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8}
    ids = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return {**sizes, **heads, **ids, **changes}


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(*QWEN, chat_template=QWEN_CHAT)


def qwen2_5_vl(**changes: Any) -> Qwen2_5_VLForConditionalGeneration:
    """A picture has a token per 28 x 28. `changes` are of the language model."""
    width = changes.get("hidden_size", WIDTH)
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 37, "out_hidden_size": width}
    language = language_sizes(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]})
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**language, **changes}, vision_config=vision, **_qwen_vision_ids())
    )


def qwen3_vl_config(**changes: Any) -> Qwen3VLConfig:
    """A picture has a token per 32 x 32. `changes` are of the language model."""
    width = changes.get("hidden_size", WIDTH)
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 37, "out_hidden_size": width}
    places = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    language = language_sizes(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]})
    return Qwen3VLConfig(text_config={**language, **changes}, vision_config={**vision, **places}, **_qwen_vision_ids())


def _qwen_vision_ids() -> dict[str, int]:
    return {
        "vision_start_token_id": 2 + QWEN.index("<|vision_start|>"),
        "vision_end_token_id": 2 + QWEN.index("<|vision_end|>"),
        "image_token_id": 2 + QWEN.index("<|image_pad|>"),
        "video_token_id": 2 + QWEN.index("<|video_pad|>"),
    }


def qwen3_vl(**changes: Any) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration(qwen3_vl_config(**changes))


def qwen2_5_vl_processor() -> Qwen2_5_VLProcessor:
    """Pictures of at most 56 x 56."""
    pixels = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=qwen_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=QWEN_CHAT,
    )


def qwen3_vl_processor() -> Qwen3VLProcessor:
    """Pictures of at most 64 x 64."""
    sizes = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes, min_pixels=32 * 32, max_pixels=64 * 64),
        tokenizer=qwen_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**sizes),
        chat_template=QWEN_CHAT,
    )


def qwen3(**changes: Any) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**language_sizes(**changes)))


def gemma2(**changes: Any) -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**language_sizes(**changes)))


def qwen_vae(**changes: Any) -> AutoencoderKLQwenImage:
    """A picture VAE that shrinks by 2, with 4 channels."""
    statistics = {"latents_mean": [0.1] * 4, "latents_std": [1.5] * 4}
    sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False]}
    return AutoencoderKLQwenImage(**{**sizes, **statistics, **changes})


def flux2_vae(channels: int = 4, levels: int = 1) -> AutoencoderKLFlux2:
    """A picture VAE that shrinks by 2 ** (levels - 1)."""
    return AutoencoderKLFlux2(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
    )


def randomize_zeros(model: Model) -> Model:
    """Random numbers for the parameters that the class sets to zero, so that gates are open and outputs differ."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


class AllowAll(ModelMixin, ConfigMixin):
    """In place of the guardrail of Cosmos: every text and every clip is safe."""

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


PIXTRAL = ("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
"""Special tokens of Mistral's models that see, with ids from 2 on."""
PIXTRAL_CHAT = """
{%- for message in messages -%}
{%- if message.role == "user" -%}[INST]{%- endif -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}{{ part.text }}
{%- elif part.type == "image" -%}[IMG]
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if message.role == "user" -%}[/INST]{%- endif -%}
{%- endfor -%}
"""


def mistral3(**changes: Any) -> Mistral3ForConditionalGeneration:
    """A picture has a token per 16 x 16. `changes` are of the language model."""
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    sizes = {"image_size": 64, "patch_size": 8}
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", **language_sizes(**changes)},
            vision_config={"model_type": "pixtral", **vision, **sizes},
            image_token_index=2 + PIXTRAL.index("[IMG]"),
            tie_word_embeddings=False,
        )
    )


def pixtral_processor() -> PixtralProcessor:
    """Pictures of at most 64 x 64."""
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
        tokenizer=byte_tokenizer(*PIXTRAL, chat_template=PIXTRAL_CHAT),
        patch_size=8,
        spatial_merge_size=2,
        chat_template=PIXTRAL_CHAT,
    )
