"""Flow-matching text-to-image pipelines."""

from typing import Any

from diffusers import (
    AdaptiveProjectedMixGuidance,
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage21,
    AutoencoderTiny,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    Cosmos2TextToImagePipeline,
    CosmosTransformer3DModel,
    DPMSolverMultistepScheduler,
    DreamLiteMobilePipeline,
    DreamLitePipeline,
    DreamLiteUNetModel,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    PRXPipeline,
    PRXPixelPipeline,
    PRXTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPAGPipeline,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    ByT5Tokenizer,
    GemmaConfig,
    GemmaModel,
    GlmConfig,
    GlmImageConfig,
    GlmImageForConditionalGeneration,
    GlmImageImageProcessor,
    GlmImageProcessor,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Model,
    Qwen3VLModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from flowgrpo.policies.tiny import tiny
from flowgrpo.policies.tiny.parts import (
    AllowAll,
    byte_tokenizer,
    clip,
    clip_tokenizer,
    clip_with_projection,
    flux2_vae,
    gemma2,
    language_sizes,
    mistral3,
    pixtral_processor,
    qwen2_5_vl,
    qwen2_5_vl_processor,
    qwen3,
    qwen3_vl,
    qwen3_vl_config,
    qwen3_vl_processor,
    qwen_tokenizer,
    qwen_vae,
    randomize_zeros,
    t5,
    umt5,
    vae,
    wan_vae,
)


@tiny("text to image", call={"height": 8, "width": 8, "guidance_scale": 3.0, "max_sequence_length": 16})
def sd3() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(**sd3_parts())


@tiny(
    "text to image",
    call={
        "height": 8,
        "width": 8,
        "guidance_scale": 3.0,
        "max_sequence_length": 16,
        "skip_guidance_layers": [0],
        "skip_layer_guidance_stop": 0.6,
    },
)
def sd3_skip_layer() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(**sd3_parts(layers=2))


@tiny(
    "text to image",
    call={
        "height": 8,
        "width": 8,
        "guidance_scale": 3.0,
        "max_sequence_length": 16,
        "pag_scale": 1.0,
        "pag_adaptive_scale": 0.003,
    },
)
def sd3_pag() -> StableDiffusion3PAGPipeline:
    return StableDiffusion3PAGPipeline(**sd3_parts(layers=2))


def sd3_parts(layers: int = 1) -> dict[str, Any]:
    return {
        "transformer": sd3_transformer(layers),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": vae(4),
        "text_encoder": clip_with_projection(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_with_projection(),
        "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": None,
        "tokenizer_3": None,
    }


def sd3_transformer(layers: int = 1) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=8,
    )


@tiny("text to image", call={"height": 8, "width": 8, "guidance_scale": 3.5, "max_sequence_length": 16})
def flux() -> FluxPipeline:
    return FluxPipeline(**flux_parts())


@tiny(
    "text to image",
    call={
        "height": 8,
        "width": 8,
        "guidance_scale": 3.5,
        "true_cfg_scale": 2.0,
        "negative_prompt": "blurry",
        "max_sequence_length": 16,
    },
)
def flux_true_cfg() -> FluxPipeline:
    return FluxPipeline(**flux_parts())


def flux_parts() -> dict[str, Any]:
    return {
        "transformer": FluxTransformer2DModel(
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
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": vae(4),
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5(),
        "tokenizer_2": byte_tokenizer(),
    }


FLUX2_CALL = {"height": 8, "width": 8, "guidance_scale": 3.5, "text_encoder_out_layers": [1, 2]}


@tiny("text to image", call={**FLUX2_CALL, "max_sequence_length": 320})
def flux2() -> Flux2Pipeline:
    return Flux2Pipeline(
        transformer=flux2_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=mistral3(),
        tokenizer=pixtral_processor(),
    )


@tiny("text to image", call={**FLUX2_CALL, "max_sequence_length": 48})
def flux2_klein() -> Flux2KleinPipeline:
    return Flux2KleinPipeline(
        transformer=flux2_transformer(guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3(),
        tokenizer=qwen_tokenizer(),
    )


def flux2_transformer(**changes: Any) -> Flux2Transformer2DModel:
    """Of a picture VAE with 4 channels, and two layers of a text encoder."""
    sizes: dict[str, Any] = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    return Flux2Transformer2DModel(**{**sizes, **changes})


@tiny(
    "text to image",
    call={"height": 16, "width": 16, "true_cfg_scale": 3.0, "negative_prompt": "blurry", "max_sequence_length": 256},
)
def qwenimage() -> QwenImagePipeline:
    return QwenImagePipeline(
        transformer=qwenimage_transformer(),
        scheduler=qwenimage_scheduler(),
        vae=qwen_vae(),
        text_encoder=qwen2_5_vl(),
        tokenizer=qwen_tokenizer(),
    )


def qwenimage_transformer(**changes: Any) -> QwenImageTransformer2DModel:
    """Of a picture VAE with 4 channels."""
    sizes: dict[str, Any] = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": (4, 4, 8),
    }
    return QwenImageTransformer2DModel(**{**sizes, **changes})


def qwenimage_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02)


@tiny(
    "text to image", call={"height": 64, "width": 64, "true_cfg_scale": 3.0, "negative_prompt": "blurry", "use_kv_cache": False}
)
def qwenimage21() -> QwenImage21Pipeline:
    """Without the cache of the text, that only the first step fills."""
    return QwenImage21Pipeline(
        transformer=QwenImage21Transformer2DModel(
            in_channels=8,
            out_channels=8,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=32,
            mlp_ratio=2,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=8,
            dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1] * 8,
            latents_std=[1.5] * 8,
        ),
        text_encoder=qwen3_vl(),
        processor=qwen3_vl_processor(),
    )


SANA_CALL = {
    "height": 32,
    "width": 32,
    "guidance_scale": 4.5,
    "max_sequence_length": 16,
    "use_resolution_binning": False,
    "complex_human_instruction": ["User Prompt: "],
}


@tiny("text to image", call=SANA_CALL)
def sana() -> SanaPipeline:
    return SanaPipeline(**sana_parts(), scheduler=sana_scheduler())


@tiny("text to image", call={**SANA_CALL, "pag_scale": 1.0, "pag_adaptive_scale": 0.003})
def sana_pag() -> SanaPAGPipeline:
    return SanaPAGPipeline(**sana_parts(), scheduler=sana_scheduler())


@tiny("text to image", call={**SANA_CALL, "intermediate_timesteps": None})
def sana_sprint() -> SanaSprintPipeline:
    return SanaSprintPipeline(**sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads"), scheduler=SCMScheduler())


def sana_parts(**changes: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 32,
        "sample_size": 32,
    }
    return {
        "transformer": SanaTransformer2DModel(**{**sizes, **changes}),
        "vae": dc_vae(),
        "text_encoder": gemma2(),
        "tokenizer": byte_tokenizer(),
    }


def sana_scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def dc_vae() -> AutoencoderDC:
    """A picture VAE that shrinks by 4, with 4 channels."""
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.5,
    )


@tiny(
    "text to image",
    call={"height": 32, "width": 32, "guidance_scale": 4.0, "negative_prompt": "blurry", "scaling_watershed": 0.3},
)
def lumina() -> LuminaPipeline:
    transformer = LuminaNextDiT2DModel(
        sample_size=8,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=32,
    )
    nn.init.normal_(transformer.pad_token)
    return LuminaPipeline(
        transformer=randomize_zeros(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(4, levels=4),
        text_encoder=GemmaModel(GemmaConfig(**language_sizes())),
        tokenizer=byte_tokenizer(),
    )


LUMINA2_CALL = {"height": 32, "width": 32, "guidance_scale": 4.0, "max_sequence_length": 224}


@tiny("text to image", call=LUMINA2_CALL)
def lumina2() -> Lumina2Pipeline:
    return Lumina2Pipeline(**lumina2_parts())


@tiny("text to image", call={**LUMINA2_CALL, "cfg_trunc_ratio": 0.5, "cfg_normalization": False})
def lumina2_truncation() -> Lumina2Pipeline:
    return Lumina2Pipeline(**lumina2_parts())


def lumina2_parts() -> dict[str, Any]:
    return {
        "transformer": Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 4, 4),
            axes_lens=(300, 16, 16),
            cap_feat_dim=32,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=6.0),
        "vae": vae(4, levels=4),
        "text_encoder": gemma2(),
        "tokenizer": byte_tokenizer(),
    }


Z_IMAGE_CALL = {"height": 8, "width": 8, "guidance_scale": 3.0, "max_sequence_length": 48}


@tiny("text to image", call=Z_IMAGE_CALL)
def z_image() -> ZImagePipeline:
    return ZImagePipeline(**z_image_parts())


@tiny("text to image", call={**Z_IMAGE_CALL, "cfg_truncation": 0.4, "cfg_normalization": 0.9})
def z_image_truncation() -> ZImagePipeline:
    return ZImagePipeline(**z_image_parts())


def z_image_parts() -> dict[str, Any]:
    return {
        "transformer": randomize_zeros(
            ZImageTransformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=32,
                axes_dims=[4, 4, 8],
                axes_lens=[256, 32, 32],
            )
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": vae(4),
        "text_encoder": qwen3(),
        "tokenizer": qwen_tokenizer(),
    }


@tiny("text to image", call={"height": 128, "width": 128, "guidance_scale": 3.0, "max_sequence_length": 16})
def hidream() -> HiDreamImagePipeline:
    """The pipeline scales every size to 128 x 128 latents: patches are large, so that they are few."""
    return HiDreamImagePipeline(
        transformer=HiDreamImageTransformer2DModel(
            patch_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[32, 32],
            text_emb_dim=64,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(128, 128),
            llama_layers=[0, 1],
            force_inference_output=True,
        ),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        vae=vae(4, mid_block_add_attention=False),
        text_encoder=clip_with_projection(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_with_projection(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=byte_tokenizer(),
        text_encoder_4=LlamaForCausalLM(LlamaConfig(**language_sizes())),
        tokenizer_4=byte_tokenizer(),
    )


@tiny("text to image", call={"height": 8, "width": 8, "guidance_scale": 3.5, "max_sequence_length": 16})
def aura_flow() -> AuraFlowPipeline:
    return AuraFlowPipeline(
        transformer=AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=64,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=vae(4),
        text_encoder=umt5(),
        tokenizer=byte_tokenizer(),
    )


@tiny(
    "text to image",
    call={"height": 8, "width": 8, "guidance_scale": 3.0, "negative_prompt": "blurry", "max_sequence_length": 16},
)
def chroma() -> ChromaPipeline:
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


@tiny(
    "text to image",
    call={"height": 16, "width": 16, "guidance_scale": 5.0, "negative_prompt": "blurry", "max_sequence_length": 16},
)
def cogview4() -> CogView4Pipeline:
    return CogView4Pipeline(
        transformer=CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
            pos_embed_max_size=8,
            sample_size=8,
            rope_axes_dim=(8, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
        vae=vae(4),
        text_encoder=GlmModel(GlmConfig(**language_sizes())),
        tokenizer=byte_tokenizer(),
    )


HUNYUAN_CALL = {"height": 16, "width": 16, "negative_prompt": "blurry"}


@tiny(
    "text to image",
    call=HUNYUAN_CALL,
    known="its guider has momentum: the pipeline's predictions depend on those before, which those of a policy must not",
)
def hunyuan_image() -> HunyuanImagePipeline:
    guidance = {"adaptive_projected_guidance_start_step": 2}
    return HunyuanImagePipeline(
        **hunyuan_image_parts(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=AdaptiveProjectedMixGuidance(**guidance),
        ocr_guider=AdaptiveProjectedMixGuidance(**guidance),
    )


@tiny("text to image", call={"height": 16, "width": 16, "distilled_guidance_scale": 3.25})
def hunyuan_image_distilled() -> HunyuanImagePipeline:
    return HunyuanImagePipeline(
        **hunyuan_image_parts(guidance_embeds=True, use_meanflow=True),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
    )


def hunyuan_image_parts(**changes: Any) -> dict[str, Any]:
    """The transformer does not read the second text encoder: its layers for that have a fixed width, of 17 MB."""
    sizes: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 1,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "text_embed_dim": 32,
        "rope_axes_dim": (4, 4),
    }
    return {
        "transformer": HunyuanImageTransformer2DModel(**{**sizes, **changes}),
        "vae": AutoencoderKLHunyuanImage(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            scaling_factor=0.476986,
            spatial_compression_ratio=2,
            sample_size=32,
        ),
        "text_encoder": qwen2_5_vl(),
        "tokenizer": qwen_tokenizer(),
        "text_encoder_2": t5(vocab_size=384),
        "tokenizer_2": ByT5Tokenizer(),
    }


@tiny(
    "text to image",
    call={"height": 1408, "width": 640, "guidance_scale": 3.5, "max_sequence_length": 256},
    steps=3,
    options={"lora": {"targets": ["to_query", "to_key", "to_value"], "rank": 2, "alpha": 4}},
)
def kandinsky5_t2i() -> Kandinsky5T2IPipeline:
    """The pipeline knows no smaller size: 88 x 40 patches of 16 pixels. The VAE does not shrink, so the picture is 176 x 80."""
    return Kandinsky5T2IPipeline(
        transformer=randomize_zeros(
            Kandinsky5Transformer3DModel(
                in_text_dim=32,
                in_text_dim2=32,
                time_dim=16,
                model_dim=8,
                ff_dim=16,
                num_text_blocks=1,
                num_visual_blocks=1,
                axes_dims=(2, 2, 4),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, mid_block_add_attention=False),
        text_encoder=qwen2_5_vl(),
        tokenizer=qwen2_5_vl_processor(),
        text_encoder_2=clip(max_position_embeddings=77),
        tokenizer_2=clip_tokenizer(),
    )


BRIA_CALL = {"height": 8, "width": 8, "guidance_scale": 3.0, "negative_prompt": "blurry", "max_sequence_length": 16}


@tiny("text to image", call=BRIA_CALL)
def bria() -> BriaPipeline:
    return BriaPipeline(
        transformer=BriaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=[0, 4, 4],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(4),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


@tiny("text to image", call={**BRIA_CALL, "height": 32, "width": 32})
def bria_fibo() -> BriaFiboPipeline:
    return BriaFiboPipeline(
        transformer=BriaFiboTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=64,
            text_encoder_dim=32,
            axes_dims_rope=[0, 4, 4],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=wan_vae(),
        text_encoder=SmolLM3ForCausalLM(SmolLM3Config(**language_sizes())),
        tokenizer=byte_tokenizer(),
    )


PRX_CALL = {"height": 8, "width": 8, "guidance_scale": 4.0, "use_resolution_binning": False}
PRX_LORA = {"lora": {"targets": ["img_qkv_proj", "txt_kv_proj"], "rank": 2, "alpha": 4}}


@tiny("text to image", call={**PRX_CALL, "tokenizer_max_length": 16}, options=PRX_LORA)
def prx() -> PRXPipeline:
    """Gemma is the text encoder: the class of PRX's own, T5Gemma, can be loaded but not saved."""
    return PRXPipeline(
        transformer=prx_transformer(in_channels=4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4),
        text_encoder=gemma2(),
        tokenizer=byte_tokenizer(),
    )


@tiny("text to image", call=PRX_CALL, options=PRX_LORA)
def prx_pixel() -> PRXPixelPipeline:
    return PRXPixelPipeline(
        transformer=prx_transformer(in_channels=3, bottleneck_size=8, resolution_embeds=True),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=Qwen3Model(qwen3().config),
        tokenizer=qwen_tokenizer(),
        prompt_max_tokens=16,
    )


def prx_transformer(**changes: Any) -> PRXTransformer2DModel:
    sizes: dict[str, Any] = {
        "patch_size": 2,
        "context_in_dim": 32,
        "hidden_size": 16,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 1,
        "axes_dim": [4, 4],
    }
    return randomize_zeros(PRXTransformer2DModel(**{**sizes, **changes}))


@tiny(
    "text to image",
    call={"height": 8, "width": 8, "guidance_scale": 3.0, "negative_prompt": "blurry", "max_sequence_length": 192},
)
def ovis_image() -> OvisImagePipeline:
    return OvisImagePipeline(
        transformer=OvisImageTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(4),
        text_encoder=Qwen3Model(qwen3().config),
        tokenizer=qwen_tokenizer(),
    )


@tiny("text to image", call={"height": 8, "width": 8, "guidance_scale": 4.5, "max_sequence_length": 224})
def krea2() -> Krea2Pipeline:
    return Krea2Pipeline(
        transformer=randomize_zeros(
            Krea2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=32,
                timestep_embed_dim=16,
                text_hidden_dim=32,
                num_text_layers=2,
                text_num_attention_heads=4,
                text_num_key_value_heads=4,
                text_intermediate_size=32,
                num_layerwise_text_blocks=1,
                num_refiner_text_blocks=1,
                axes_dims_rope=(2, 2, 4),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=qwen_vae(),
        text_encoder=Qwen3VLModel(qwen3_vl_config()),
        tokenizer=qwen_tokenizer(),
        text_encoder_select_layers=[1, 2],
    )


@tiny(
    "text to image",
    call={
        "height": 8,
        "width": 8,
        "guidance_scale": 4.0,
        "negative_prompt": "blurry",
        "return_index": -1,
        "max_sequence_length": 512,
    },
)
def nucleusmoe() -> NucleusMoEImagePipeline:
    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(2, 2, 4),
        dense_moe_strategy="all_moe",
        num_experts=2,
        moe_intermediate_dim=8,
        capacity_factors=1.0,
    )
    for block in transformer.transformer_blocks:
        nn.init.normal_(block.img_mlp.experts.gate_up_proj, std=0.2)
        nn.init.normal_(block.img_mlp.experts.down_proj, std=0.2)
    return NucleusMoEImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen3_vl(),
        processor=qwen3_vl_processor(),
    )


@tiny("text to image", call={"height": 32, "width": 32, "guidance_scale": 2.5})
def omnigen() -> OmniGenPipeline:
    return OmniGenPipeline(
        transformer=OmniGenTransformer2DModel(
            in_channels=4,
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=32,
            num_layers=1,
            pad_token_id=0,
            vocab_size=300,
            max_position_embeddings=1024,
            rope_scaling={"short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0]},
            pos_embed_max_size=8,
            time_step_dim=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        vae=vae(4, levels=4),
        tokenizer=byte_tokenizer(),
    )


@tiny("text to image", call={"height": 16, "width": 16, "guidance_scale": 7.0, "max_sequence_length": 16})
def cosmos2_t2i() -> Cosmos2TextToImagePipeline:
    return Cosmos2TextToImagePipeline(
        transformer=cosmos_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        vae=wan_vae(),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
        safety_checker=AllowAll(),
    )


def cosmos_transformer() -> CosmosTransformer3DModel:
    """Of a clip VAE with 16 channels."""
    return CosmosTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
        extra_pos_embed_type=None,
    )


@tiny("text to image", call={"height": 16, "width": 16, "guidance_scale": 3.5})
def dreamlite() -> DreamLitePipeline:
    return DreamLitePipeline(**dreamlite_parts())


@tiny("text to image", call={"height": 16, "width": 16})
def dreamlite_mobile() -> DreamLiteMobilePipeline:
    return DreamLiteMobilePipeline(**dreamlite_parts())


def dreamlite_parts() -> dict[str, Any]:
    autoencoder = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    nn.init.normal_(autoencoder.decoder.layers[-1].weight, std=0.5)
    nn.init.constant_(autoencoder.decoder.layers[-1].bias, 0.5)
    return {
        "unet": DreamLiteUNetModel(
            down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
            up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=4,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=1.16),
        "vae": autoencoder,
        "text_encoder": qwen3_vl(),
        "tokenizer": qwen_tokenizer(),
        "processor": qwen3_vl_processor(),
    }


@tiny("text to image", call={"height": 8, "width": 8, "guidance_scale": 4.5, "enable_prompt_rewrite": False})
def longcat_image() -> LongCatImagePipeline:
    return LongCatImagePipeline(
        transformer=LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(16),
        text_encoder=qwen2_5_vl(),
        tokenizer=qwen_tokenizer(),
        text_processor=qwen2_5_vl_processor(),
    )


@tiny("text to image", call={"height": 8, "width": 8, "guidance_scale": 4.0})
def ernie_image() -> ErnieImagePipeline:
    return ErnieImagePipeline(
        transformer=randomize_zeros(
            ErnieImageTransformer2DModel(
                hidden_size=24,
                num_attention_heads=2,
                num_layers=1,
                ffn_hidden_size=32,
                in_channels=16,
                out_channels=16,
                text_in_dim=32,
                rope_axes_dim=(4, 4, 4),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux2_vae(),
        text_encoder=mistral3().model,
        tokenizer=byte_tokenizer(),
    )


@tiny(
    "text to image",
    call={"height": 8, "width": 8, "guidance_schedule": [7.0, 7.0, 7.0, 3.0], "max_sequence_length": 48},
)
def ideogram4() -> Ideogram4Pipeline:
    """The text encoder has as many layers as the pipeline reads, and few channels."""
    return Ideogram4Pipeline(
        transformer=ideogram4_transformer(),
        unconditional_transformer=ideogram4_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=Qwen3VLModel(qwen3_vl_config(hidden_size=8, intermediate_size=8, num_hidden_layers=36)),
        tokenizer=qwen_tokenizer(),
    )


def ideogram4_transformer() -> Ideogram4Transformer2DModel:
    return Ideogram4Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=13 * 8,
        mrope_section=(2, 2, 2),
    )


GLM = ("<|image|>", "<|grid_begin|>", "<|grid_end|>", "<|image_begin|>", "<|image_end|>")
"""Special tokens of the processor, with ids from 2 on."""
GLM_CHAT = """
{%- for message in messages -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}{{ part.text }}{%- else -%}<|image|>{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""


@tiny("text to image", call={"height": 32, "width": 32, "guidance_scale": 1.5, "max_sequence_length": 16})
def glm_image() -> GlmImagePipeline:
    return GlmImagePipeline(
        transformer=GlmImageTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=32,
            time_embed_dim=16,
            condition_dim=4,
            prior_vq_quantizer_codebook_size=128,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
        vae=vae(4, levels=4, latents_mean=[0.1] * 4, latents_std=[1.5] * 4),
        text_encoder=t5(vocab_size=384),
        tokenizer=ByT5Tokenizer(),
        vision_language_encoder=glm_image_model(),
        processor=glm_image_processor(),
    )


def glm_image_model() -> GlmImageForConditionalGeneration:
    """It makes 128 kinds of picture tokens, never the one that ends, and other ones for other prompts."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    language = language_sizes(rope_parameters=rope, num_hidden_layers=1, vision_vocab_size=128, eos_token_id=299)
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "image_size": 64, "intermediate_size": 32}
    model = GlmImageForConditionalGeneration(
        GlmImageConfig(
            text_config=language,
            vision_config=vision,
            vq_config={"embed_dim": 16, "num_embeddings": 128, "latent_channels": 16},
            image_token_id=2 + GLM.index("<|image|>"),
            image_start_token_id=2 + GLM.index("<|image_begin|>"),
            image_end_token_id=2 + GLM.index("<|image_end|>"),
        )
    )
    nn.init.normal_(model.lm_head.weight)
    return model


def glm_image_processor() -> GlmImageProcessor:
    """Pictures of at most 64 x 64."""
    tokens = {"image_token": GLM[0], "grid_bos_token": GLM[1], "grid_eos_token": GLM[2], "bos_token": GLM[3]}
    return GlmImageProcessor(
        image_processor=GlmImageImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64),
        tokenizer=byte_tokenizer(*GLM, padding_side="left", **tokens),
        chat_template=GLM_CHAT,
    )
