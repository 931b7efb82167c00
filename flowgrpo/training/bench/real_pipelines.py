"""Pipelines at the sizes of their published configs, with random weights and stand-ins for tokenizers. The caller says on which
device and in which type."""

import copy
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from flowgrpo.policies.tiny.parts import byte_tokenizer, clip_tokenizer

T5_XXL: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
SD35_TRANSFORMER: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
VAE_OF_16: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
WAN_TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}


def sd35_medium() -> DiffusionPipeline:
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**SD35_TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(**VAE_OF_16, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_L)),
        tokenizer=clip_tokenizer_77(),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G)),
        tokenizer_2=clip_tokenizer_77(),
        text_encoder_3=T5EncoderModel(T5Config(vocab_size=32128, **T5_XXL)),
        tokenizer_3=byte_tokenizer(),
    )


def flux1_dev() -> DiffusionPipeline:
    return FluxPipeline(
        transformer=FluxTransformer2DModel(guidance_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL(**VAE_OF_16, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(CLIPTextConfig(**CLIP_L)),
        tokenizer=clip_tokenizer_77(),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=32128, **T5_XXL)),
        tokenizer_2=byte_tokenizer(),
    )


def clip_tokenizer_77() -> CLIPTokenizer:
    tokenizer = copy.deepcopy(clip_tokenizer())
    tokenizer.model_max_length = 77
    return tokenizer


def wan21_small() -> DiffusionPipeline:
    """The scheduler is Euler's; the published one, UniPC, costs the same."""
    return WanPipeline(
        transformer=WanTransformer3DModel(**WAN_TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKLWan(),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=256384, **T5_XXL)),
        tokenizer=byte_tokenizer(),
    )
