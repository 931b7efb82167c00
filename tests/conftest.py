"""Tiny random pipelines of real classes, and a policy over a tiny one that trains in milliseconds."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
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

from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.shape import Shape
from tiny_mdlm import save

torch.set_num_threads(1)
"""Threads wait for each other longer than a tiny model computes; the suite has a process per core instead."""


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """No test asks the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


def trajectories(kernels: list[Kernel], group_size: int, shared_start: bool) -> Shape:
    """Trajectories side by side, `kernels[i]` at step i."""
    return Shape.chains([(kernel, i + 1) for i, kernel in enumerate(kernels)], group_size, shared_start)


WORDS = ["a", "red", "blue", "circle", "square", "left", "of"]


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    letters = sorted(set("".join(WORDS)))
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=24,
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def tiny_vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        shift_factor=0.1,
        scaling_factor=1.5,
    )


def tiny_sd3(folder: Path) -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    config = clip_config(tokenizer)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(4),
        text_encoder=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def tiny_flux(folder: Path) -> FluxPipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_vae(4),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=32, d_ff=37, num_layers=1, num_heads=4, d_kv=8)
        ),
        tokenizer_2=tokenizer,
    )


def tiny_wan(folder: Path) -> WanPipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    return WanPipeline(
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=32, d_ff=37, num_layers=1, num_heads=4, d_kv=8)
        ),
        tokenizer=tokenizer,
    )


def tiny_sd15(folder: Path) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        ),
        vae=tiny_vae(4),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
    )


CALLS = {
    "sd3": {"height": 8, "width": 8, "guidance_scale": 3.0, "max_sequence_length": 4},
    "flux": {"height": 8, "width": 8, "guidance_scale": 3.5, "max_sequence_length": 4},
    "wan": {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 3.0, "max_sequence_length": 8},
    "sd15": {"height": 8, "width": 8, "guidance_scale": 3.0},
}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny random pipelines, saved and ready to load."""
    made = {"sd3": tiny_sd3, "flux": tiny_flux, "wan": tiny_wan, "sd15": tiny_sd15}
    folders = {}
    for name, make in made.items():
        root = tmp_path_factory.mktemp(name)
        make(root / "words").save_pretrained(root / "pipeline")
        folders[name] = root / "pipeline"
    return folders


@pytest.fixture(scope="session")
def mdlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random masked-diffusion language model."""
    return save(tmp_path_factory.mktemp("mdlm"))
