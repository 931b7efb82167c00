"""Clips of LTX, Mochi, Allegro, Latte, CogVideoX, EasyAnimate, AnimateDiff, Sana, Motif, Helios, AnyFlow and the first UNets."""

from typing import Any

from diffusers import (
    AdaptiveProjectedGuidance,
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnimateDiffControlNetPipeline,
    AnimateDiffPAGPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMagvit,
    AutoencoderKLMochi,
    AutoencoderKLTemporalDecoder,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    ConsisIDPipeline,
    ConsisIDTransformer3DModel,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    LattePipeline,
    LatteTransformer3DModel,
    LTX2ConditionPipeline,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXEulerAncestralRFScheduler,
    LTXI2VLongMultiPromptPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    MotionAdapter,
    PIAPipeline,
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SanaWMPipeline,
    SanaWMTransformer3DModel,
    SparseControlNetModel,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import (
    CLIPVisionModelWithProjection,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipImageProcessor,
    T5Gemma2Encoder,
    T5Gemma2EncoderConfig,
)

from flowgrpo.policies.tiny import tiny
from flowgrpo.policies.tiny.parts import (
    WIDTH,
    byte_tokenizer,
    clip,
    clip_image_processor,
    clip_tokenizer,
    clip_vision_config,
    clip_with_projection,
    gemma2,
    language_sizes,
    qwen_tokenizer,
    randomize_zeros,
    t5,
    umt5,
    vae,
    wan_vae,
)

LTX = {"height": 32, "width": 32, "num_frames": 5, "guidance_scale": 3.0, "max_sequence_length": 16}
LTX2 = {**LTX, "spatio_temporal_guidance_blocks": [0]}


@tiny("text to video", call={**LTX, "guidance_rescale": 0.3})
def ltx() -> LTXPipeline:
    return LTXPipeline(scheduler=ltx_scheduler(), **ltx_parts())


@tiny("image to video", call=LTX, conditions={"image": (32, 32)})
def ltx_i2v() -> LTXImageToVideoPipeline:
    return LTXImageToVideoPipeline(scheduler=ltx_scheduler(), **ltx_parts())


@tiny("image to video", call={**LTX, "strength": 0.9}, conditions={"image": (32, 32)})
def ltx_condition() -> LTXConditionPipeline:
    return LTXConditionPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **ltx_parts())


@tiny("video to video", call={**LTX, "num_frames": 9}, conditions={"video": [(5, 32, 32)]})
def ltx_condition_video() -> LTXConditionPipeline:
    return LTXConditionPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **ltx_parts())


@tiny(
    "image to video",
    call={**LTX, "num_frames": 9, "temporal_tile_size": 6, "temporal_overlap": 2, "decode_horizontal_tiles": 1},
    conditions={"cond_image": (32, 32)},
)
def ltx_long() -> LTXI2VLongMultiPromptPipeline:
    return LTXI2VLongMultiPromptPipeline(scheduler=LTXEulerAncestralRFScheduler(), **ltx_parts())


def ltx_scheduler() -> FlowMatchEulerDiscreteScheduler:
    lengths = {"base_image_seq_len": 1024, "max_image_seq_len": 4096}
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1, **lengths
    )


def ltx_parts() -> dict[str, Any]:
    return {
        "transformer": LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=1,
            caption_channels=WIDTH,
        ),
        "vae": ltx_vae(),
        "text_encoder": t5(),
        "tokenizer": byte_tokenizer(),
    }


def ltx_vae() -> AutoencoderKLLTXVideo:
    """Shrinks by 8 in space and 2 in time."""
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("conv",) * 2,
        upsample_residual=(False,) * 2,
        upsample_factor=(1, 1),
    )


@tiny("text to video", call=LTX2)
def ltx2() -> LTX2Pipeline:
    return LTX2Pipeline(**ltx2_parts())


@tiny("image to video", call={**LTX2, "image_crf": 0}, conditions={"image": (32, 32)})
def ltx2_i2v() -> LTX2ImageToVideoPipeline:
    return LTX2ImageToVideoPipeline(**ltx2_parts())


@tiny("text to video", call=LTX2)
def ltx2_condition() -> LTX2ConditionPipeline:
    return LTX2ConditionPipeline(**ltx2_parts())


def ltx2_parts() -> dict[str, Any]:
    return {
        "transformer": LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=1,
            caption_channels=WIDTH,
            rope_type="split",
            perturbed_attn=True,
        ),
        "connectors": LTX2TextConnectors(
            caption_channels=WIDTH,
            text_proj_in_factor=2,
            video_connector_num_attention_heads=4,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=4,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            connector_rope_base_seq_len=32,
            rope_type="split",
        ),
        "vae": ltx2_vae(),
        "audio_vae": AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
        ),
        "vocoder": LTX2Vocoder(
            in_channels=16,
            hidden_channels=8,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3]],
            output_sampling_rate=16000,
        ),
        "text_encoder": gemma3(),
        "tokenizer": byte_tokenizer(),
        "scheduler": ltx_scheduler(),
    }


def ltx2_vae(channels: int = 4) -> AutoencoderKLLTX2Video:
    """Shrinks by 8 in space and 2 in time."""
    return AutoencoderKLLTX2Video(
        latent_channels=channels,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
    )


def gemma3() -> Gemma3ForConditionalGeneration:
    text = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 8}
    eyes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={**text, "num_key_value_heads": 2, "vocab_size": 300},
            vision_config={**eyes, "image_size": 16, "patch_size": 8},
            mm_tokens_per_image=4,
        )
    )


@tiny("text to video", call={"height": 16, "width": 16, "num_frames": 7, "guidance_scale": 4.5, "max_sequence_length": 16})
def mochi() -> MochiPipeline:
    return MochiPipeline(
        transformer=MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            text_embed_dim=WIDTH,
            time_embed_dim=8,
            max_sequence_length=16,
        ),
        vae=AutoencoderKLMochi(
            encoder_block_out_channels=(32,) * 4,
            decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1,) * 5,
            add_attention_block=(False,) * 5,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


@tiny(
    "text to video",
    call={
        "height": 128,
        "width": 128,
        "num_frames": 24,
        "guidance_scale": 7.5,
        "max_sequence_length": 16,
        "clean_caption": False,
    },
    options={"runtime": {"vae_tiling": True, "vae_slicing": True}},
)
def allegro() -> AllegroPipeline:
    return AllegroPipeline(
        transformer=AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            cross_attention_dim=24,
            sample_width=8,
            sample_height=8,
            sample_frames=8,
            caption_channels=WIDTH,
        ),
        vae=AutoencoderKLAllegro(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=2, sample_size=128),
        scheduler=EulerAncestralDiscreteScheduler(),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


@tiny("text to video", call={"height": 16, "width": 16, "video_length": 3, "guidance_scale": 7.5, "clean_caption": False})
def latte() -> LattePipeline:
    return LattePipeline(
        transformer=LatteTransformer3DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            video_length=3,
        ),
        vae=vae(4, levels=2),
        scheduler=DDIMScheduler(clip_sample=False),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )


COGVIDEOX = {"height": 8, "width": 8, "num_frames": 5, "guidance_scale": 6.0, "max_sequence_length": 16}


@tiny("text to video", call=COGVIDEOX)
def cogvideox() -> CogVideoXPipeline:
    return CogVideoXPipeline(scheduler=cogvideox_ddim(), transformer=cogvideox_transformer(), **cogvideox_parts())


@tiny("text to video", call={**COGVIDEOX, "use_dynamic_cfg": True})
def cogvideox_dpm() -> CogVideoXPipeline:
    return CogVideoXPipeline(
        scheduler=cogvideox_dpm_scheduler(),
        transformer=cogvideox_transformer(use_rotary_positional_embeddings=True),
        **cogvideox_parts(),
    )


@tiny("image to video", call=COGVIDEOX, conditions={"image": (8, 8)})
def cogvideox_i2v() -> CogVideoXImageToVideoPipeline:
    transformer = cogvideox_transformer(
        in_channels=8, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True
    )
    return CogVideoXImageToVideoPipeline(scheduler=cogvideox_ddim(), transformer=transformer, **cogvideox_parts())


@tiny("image to video", call=COGVIDEOX, conditions={"image": (8, 8)})
def cogvideox15_i2v() -> CogVideoXImageToVideoPipeline:
    transformer = cogvideox_transformer(
        in_channels=8, use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False, ofs_embed_dim=8
    )
    parts = cogvideox_parts(invert_scale_latents=True)
    return CogVideoXImageToVideoPipeline(scheduler=cogvideox_dpm_scheduler(), transformer=transformer, **parts)


@tiny(
    "video to video",
    call={"height": 8, "width": 8, "guidance_scale": 6.0, "max_sequence_length": 16, "strength": 0.8, "num_inference_steps": 5},
    conditions={"video": (5, 8, 8)},
)
def cogvideox_v2v() -> CogVideoXVideoToVideoPipeline:
    return CogVideoXVideoToVideoPipeline(scheduler=cogvideox_ddim(), transformer=cogvideox_transformer(), **cogvideox_parts())


@tiny(
    "control",
    call={"height": 8, "width": 8, "guidance_scale": 6.0, "max_sequence_length": 16},
    conditions={"control_video": (5, 8, 8)},
)
def cogvideox_fun_control() -> CogVideoXFunControlPipeline:
    transformer = cogvideox_transformer(in_channels=8)
    return CogVideoXFunControlPipeline(scheduler=cogvideox_ddim(), transformer=transformer, **cogvideox_parts())


def cogvideox_ddim() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def cogvideox_dpm_scheduler() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def cogvideox_transformer(**changes: Any) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(**{**cogvideox_sizes(), **changes})


def cogvideox_sizes() -> dict[str, Any]:
    """For clips of 5 x 8 x 8 pixels."""
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": WIDTH,
        "num_layers": 1,
        "sample_width": 4,
        "sample_height": 4,
        "sample_frames": 5,
        "temporal_compression_ratio": 2,
        "max_text_seq_length": 16,
    }


def cogvideox_parts(**changes: Any) -> dict[str, Any]:
    """A VAE that shrinks by 2 in space and time, changed, and a text encoder."""
    autoencoder = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
        **changes,
    )
    return {"vae": autoencoder, "text_encoder": t5(), "tokenizer": byte_tokenizer()}


@tiny("image to video", call=COGVIDEOX, conditions={"image": (8, 8)})
def consisid() -> ConsisIDPipeline:
    """Without the branch of the face, whose embeddings the call wants as tensors."""
    transformer = ConsisIDTransformer3DModel(
        **{**cogvideox_sizes(), "in_channels": 8},
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
        is_train_face=False,
    )
    return ConsisIDPipeline(scheduler=cogvideox_dpm_scheduler(), transformer=transformer, **cogvideox_parts())


EASYANIMATE = {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 6.0, "negative_prompt": "blurred"}


@tiny("text to video", call=EASYANIMATE)
def easyanimate() -> EasyAnimatePipeline:
    return EasyAnimatePipeline(**easyanimate_parts(channels=4))


@tiny("text to video", call=EASYANIMATE)
def easyanimate_inpaint() -> EasyAnimateInpaintPipeline:
    """Without its clips, which the call wants as tensors."""
    return EasyAnimateInpaintPipeline(**easyanimate_parts(channels=9))


def easyanimate_parts(channels: int) -> dict[str, Any]:
    """A transformer that reads `channels`, 4 of which are the latents."""
    return {
        "transformer": EasyAnimateTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=channels,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=WIDTH,
            num_layers=1,
            mmdit_layers=1,
            sample_width=8,
            sample_height=8,
            patch_size=2,
        ),
        "vae": AutoencoderKLMagvit(
            down_block_types=["SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D"],
            up_block_types=["SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"],
            block_out_channels=[8, 8, 8],
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            spatial_group_norm=False,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "text_encoder": qwen2_vl(),
        "tokenizer": qwen_tokenizer(),
    }


def qwen2_vl() -> Qwen2VLForConditionalGeneration:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "embed_dim": 8, "num_heads": 2, "mlp_ratio": 1, "hidden_size": WIDTH}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=language_sizes(rope_parameters=rope), vision_config=vision))


ANIMATEDIFF = {"height": 16, "width": 16, "num_frames": 3, "guidance_scale": 7.5}
ANIMATEDIFF_V2V = {"height": 16, "width": 16, "guidance_scale": 7.5, "strength": 0.8, "num_inference_steps": 5}
BLOCKS = {"block_out_channels": (8, 8), "layers_per_block": 1, "cross_attention_dim": WIDTH, "norm_num_groups": 2}


@tiny("text to video", call=ANIMATEDIFF)
def animatediff() -> AnimateDiffPipeline:
    return AnimateDiffPipeline(**animatediff_parts())


@tiny("control", call={**ANIMATEDIFF, "control_guidance_end": 0.5}, conditions={"conditioning_frames": (3, 16, 16)})
def animatediff_controlnet() -> AnimateDiffControlNetPipeline:
    return AnimateDiffControlNetPipeline(controlnet=animatediff_control(), **animatediff_parts())


@tiny("control", call={**ANIMATEDIFF, "controlnet_frame_indices": [0, 2]}, conditions={"conditioning_frames": (2, 16, 16)})
def animatediff_sparsectrl() -> AnimateDiffSparseControlNetPipeline:
    controlnet = SparseControlNetModel(
        **BLOCKS,
        conditioning_channels=3,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        attention_head_dim=2,
        conditioning_embedding_out_channels=(8, 8),
        motion_num_attention_heads=2,
        use_simplified_condition_embedding=False,
    )
    return AnimateDiffSparseControlNetPipeline(controlnet=randomize_zeros(controlnet), **animatediff_parts())


@tiny("video to video", call=ANIMATEDIFF_V2V, conditions={"video": (3, 16, 16)})
def animatediff_v2v() -> AnimateDiffVideoToVideoPipeline:
    return AnimateDiffVideoToVideoPipeline(**animatediff_parts())


@tiny(
    "video to video",
    call=ANIMATEDIFF_V2V,
    conditions={"video": (3, 16, 16), "conditioning_frames": (3, 16, 16)},
)
def animatediff_v2v_controlnet() -> AnimateDiffVideoToVideoControlNetPipeline:
    return AnimateDiffVideoToVideoControlNetPipeline(controlnet=animatediff_control(), **animatediff_parts())


@tiny("text to video", call={**ANIMATEDIFF, "pag_scale": 3.0, "pag_adaptive_scale": 0.005})
def animatediff_pag() -> AnimateDiffPAGPipeline:
    return AnimateDiffPAGPipeline(**animatediff_parts(), pag_applied_layers="mid_block.*attn1")


@tiny("text to video", call=ANIMATEDIFF)
def animatediff_sdxl() -> AnimateDiffSDXLPipeline:
    unet = UNet2DConditionModel(
        **{**BLOCKS, "cross_attention_dim": 2 * WIDTH},
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    parts = animatediff_parts(use_motion_mid_block=False)
    return AnimateDiffSDXLPipeline(**{**parts, "unet": unet}, text_encoder_2=clip_with_projection(), tokenizer_2=clip_tokenizer())


@tiny("image to video", call={**ANIMATEDIFF, "motion_scale": 1}, conditions={"image": (16, 16)})
def pia() -> PIAPipeline:
    parts = animatediff_parts(conv_in_channels=9)
    unet = UNet2DConditionModel(**animatediff_unet_sizes(), in_channels=4)
    return PIAPipeline(**{**parts, "unet": unet})


def animatediff_parts(**changes: Any) -> dict[str, Any]:
    """`changes` are of the motion adapter."""
    return {
        "unet": UNet2DConditionModel(**animatediff_unet_sizes()),
        "motion_adapter": MotionAdapter(
            block_out_channels=(8, 8),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
            motion_max_seq_length=8,
            **changes,
        ),
        "scheduler": DDIMScheduler(beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1),
        "vae": vae(4, levels=2),
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
    }


def animatediff_unet_sizes() -> dict[str, Any]:
    return {
        **BLOCKS,
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
    }


def animatediff_control() -> ControlNetModel:
    return randomize_zeros(
        ControlNetModel(
            **BLOCKS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            attention_head_dim=2,
            conditioning_embedding_out_channels=(8, 8),
        )
    )


SANA = {
    "height": 32,
    "width": 32,
    "frames": 9,
    "guidance_scale": 6.0,
    "max_sequence_length": 16,
    "complex_human_instruction": [],
    "use_resolution_binning": False,
}


@tiny("text to video", call=SANA)
def sana_video() -> SanaVideoPipeline:
    scheduler = DPMSolverMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction")
    return SanaVideoPipeline(scheduler=scheduler, **sana_parts())


@tiny("image to video", call=SANA, conditions={"image": (32, 32)})
def sana_i2v() -> SanaImageToVideoPipeline:
    return SanaImageToVideoPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0), **sana_parts())


def sana_parts() -> dict[str, Any]:
    return {
        "transformer": SanaVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=WIDTH,
            sample_size=8,
            rope_max_seq_len=32,
        ),
        "vae": wan_vae(),
        "text_encoder": gemma2(),
        "tokenizer": byte_tokenizer(),
    }


@tiny(
    "image to video",
    call={
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "guidance_scale": 5.0,
        "max_sequence_length": 16,
        "action": "w-4",
        "intrinsics": [16.0, 16.0, 16.0, 16.0],
    },
    conditions={"image": (32, 32)},
    options={"lora": {"targets": ["qkv", "proj", "q_linear", "kv_linear"], "rank": 2, "alpha": 4}},
)
def sana_wm() -> SanaWMPipeline:
    transformer = SanaWMTransformer3DModel(
        in_channels=4,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_channels=12,
        caption_channels=WIDTH,
    )
    return SanaWMPipeline(
        transformer=randomize_zeros(transformer),
        vae=ltx2_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0),
        text_encoder=gemma2(),
        tokenizer=byte_tokenizer(),
    )


MOTIF = {"height": 16, "width": 16, "num_frames": 9, "negative_prompt": "blurred", "max_sequence_length": 16}


@tiny("text to video", call=MOTIF)
def motif_video() -> MotifVideoPipeline:
    return MotifVideoPipeline(guider=AdaptiveProjectedGuidance(guidance_scale=5.0), **motif_parts())


@tiny("image to video", call=MOTIF, conditions={"image": (16, 16)})
def motif_i2v() -> MotifVideoImage2VideoPipeline:
    eyes = SiglipImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    parts = motif_parts(image_embed_dim=8)
    return MotifVideoImage2VideoPipeline(
        guider=AdaptiveProjectedGuidance(guidance_scale=5.0), **{**parts, "feature_extractor": eyes}
    )


def motif_parts(**changes: Any) -> dict[str, Any]:
    """`changes` are of the transformer."""
    text = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "transformer": MotifVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=1,
            patch_size=1,
            text_embed_dim=WIDTH,
            rope_axes_dim=(4, 4, 4),
            **changes,
        ),
        "text_encoder": T5Gemma2Encoder(
            T5Gemma2EncoderConfig(
                text_config={**text, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "dropout_rate": 0.0},
                vision_config={**vision, "image_size": 16, "patch_size": 8},
            )
        ),
        "tokenizer": byte_tokenizer(),
        "vae": wan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


HELIOS = {"height": 16, "width": 16, "guidance_scale": 5.0, "max_sequence_length": 16, "history_sizes": [4, 2, 1]}
WINDOWS = {"num_frames": 9, "num_latent_frames_per_chunk": 2}


@tiny("text to video", call={**HELIOS, **WINDOWS})
def helios() -> HeliosPipeline:
    scheduler = HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return HeliosPipeline(scheduler=scheduler, **helios_parts())


@tiny(
    "text to video",
    call={**HELIOS, **WINDOWS, "height": 64, "width": 64, "pyramid_num_inference_steps_list": [2, 2]},
)
def helios_pyramid() -> HeliosPyramidPipeline:
    """With gamma 1/3, as published, the covariance of the noise between the stages is singular to a CPU."""
    scheduler = HeliosScheduler(stage_range=[0, 0.5, 1], stages=2, gamma=0.33, use_dynamic_shifting=True)
    return HeliosPyramidPipeline(scheduler=scheduler, **helios_parts(), is_cfg_zero_star=True)


def helios_parts() -> dict[str, Any]:
    return {
        "transformer": HeliosTransformer3DModel(**anyflow_sizes(), rope_dim=(4, 4, 4)),
        "vae": wan_vae(),
        "text_encoder": umt5(),
        "tokenizer": byte_tokenizer(),
    }


ANYFLOW = {"height": 16, "width": 16, "num_frames": 9, "guidance_scale": 3.0, "max_sequence_length": 16}


@tiny("text to video", call=ANYFLOW)
def anyflow() -> AnyFlowPipeline:
    transformer = AnyFlowTransformer3DModel(**anyflow_sizes(), rope_max_seq_len=32)
    return AnyFlowPipeline(transformer=transformer, **anyflow_parts())


@tiny("text to video", call={**ANYFLOW, "height": 32, "width": 32, "chunk_partition": [1, 2]})
def anyflow_far() -> AnyFlowFARPipeline:
    transformer = AnyFlowFARTransformer3DModel(**anyflow_sizes(), rope_max_seq_len=32, full_chunk_limit=2)
    return AnyFlowFARPipeline(transformer=transformer, **anyflow_parts())


def anyflow_sizes() -> dict[str, Any]:
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 1,
    }


def anyflow_parts() -> dict[str, Any]:
    return {
        "vae": wan_vae(),
        "scheduler": FlowMapEulerDiscreteScheduler(shift=5.0),
        "text_encoder": umt5(),
        "tokenizer": byte_tokenizer(),
    }


@tiny(
    "image to video",
    call={"height": 8, "width": 8, "num_frames": 3, "min_guidance_scale": 1.0, "max_guidance_scale": 2.5},
    conditions={"image": (8, 8)},
)
def svd() -> StableVideoDiffusionPipeline:
    """It takes no prompt."""
    return StableVideoDiffusionPipeline(
        unet=UNetSpatioTemporalConditionModel(
            sample_size=8,
            block_out_channels=(32,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal",),
            up_block_types=("CrossAttnUpBlockSpatioTemporal",),
            cross_attention_dim=WIDTH,
            num_attention_heads=2,
            projection_class_embeddings_input_dim=24,
            addition_time_embed_dim=8,
            num_frames=3,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        vae=AutoencoderKLTemporalDecoder(block_out_channels=(32,)),
        image_encoder=CLIPVisionModelWithProjection(clip_vision_config(image_size=224, patch_size=32)),
        feature_extractor=clip_image_processor(224),
    )


@tiny(
    "image to video",
    call={"height": 16, "width": 16, "num_frames": 3, "guidance_scale": 9.0, "clip_skip": None},
    conditions={"image": (16, 16)},
)
def i2vgen_xl() -> I2VGenXLPipeline:
    return I2VGenXLPipeline(
        unet=I2VGenXLUNet(**unet3d_sizes()),
        scheduler=DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            set_alpha_to_one=True,
            steps_offset=1,
            timestep_spacing="leading",
        ),
        vae=vae(4, levels=2),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        image_encoder=CLIPVisionModelWithProjection(clip_vision_config()),
        feature_extractor=clip_image_processor(),
    )


@tiny("text to video", call={"height": 16, "width": 16, "num_frames": 3, "guidance_scale": 9.0})
def text_to_video_sd() -> TextToVideoSDPipeline:
    return TextToVideoSDPipeline(
        unet=UNet3DConditionModel(**unet3d_sizes()),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        vae=vae(4, levels=2),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
    )


def unet3d_sizes() -> dict[str, Any]:
    return {
        **BLOCKS,
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "attention_head_dim": 4,
    }
