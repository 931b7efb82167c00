"""Clips by flow matching: Wan and its kin (ChronoEdit, Lucy, SkyReels), HunyuanVideo, Kandinsky, Cosmos."""

from typing import Any

from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLWan,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2_5_TransferPipeline,
    Cosmos2VideoToWorldPipeline,
    Cosmos3OmniPipeline,
    Cosmos3OmniTransformer,
    CosmosControlNetModel,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    LucyEditPipeline,
    MMAudioVAE,
    MMAudioVocoder,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.guiders import ClassifierFreeGuidance
from transformers import (
    ByT5Tokenizer,
    CLIPProcessor,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from flowgrpo.policies.tiny import tiny
from flowgrpo.policies.tiny.parts import (
    WIDTH,
    AllowAll,
    byte_tokenizer,
    clip,
    clip_image_processor,
    clip_tokenizer,
    clip_vision,
    clip_vision_config,
    language_sizes,
    qwen2_5_vl,
    qwen2_5_vl_processor,
    qwen_tokenizer,
    randomize_zeros,
    t5,
    umt5,
    wan_vae,
)

PICTURE = {"height": 16, "width": 16}
CLIP = {**PICTURE, "num_frames": 5}
WAN = {"guidance_scale": 5.0, "max_sequence_length": 16}


@tiny("text to video", call={**CLIP, **WAN})
def wan() -> WanPipeline:
    return WanPipeline(
        transformer=WanTransformer3DModel(**wan_sizes()), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **wan_parts()
    )


@tiny("text to video", call={**CLIP, **WAN, "guidance_scale": 4.0, "guidance_scale_2": 3.0})
def wan22() -> WanPipeline:
    return WanPipeline(
        transformer=WanTransformer3DModel(**wan_sizes()),
        transformer_2=WanTransformer3DModel(**wan_sizes()),
        boundary_ratio=0.875,
        scheduler=unipc(3.0),
        **wan_parts(),
    )


@tiny("text to video", call={**CLIP, **WAN, "height": 32, "width": 32})
def wan22_5b() -> WanPipeline:
    return WanPipeline(
        transformer=WanTransformer3DModel(**wan_sizes()), expand_timesteps=True, scheduler=unipc(5.0), **wan22_5b_parts()
    )


@tiny("image to video", call={**CLIP, **WAN}, conditions={"image": (16, 16)})
def wan_i2v() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        transformer=WanTransformer3DModel(**wan_sizes(in_channels=36), **wan_sees_pictures()),
        scheduler=unipc(3.0),
        **wan_parts(),
        **eyes(),
    )


@tiny("image to video", call={**CLIP, **WAN, "guidance_scale": 3.5}, conditions={"image": (16, 16), "last_image": (16, 16)})
def wan_i2v_last_image() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        transformer=WanTransformer3DModel(**wan_sizes(in_channels=36), **wan_sees_pictures(), pos_embed_seq_len=10),
        scheduler=unipc(3.0),
        **wan_parts(),
        **eyes(),
    )


@tiny("image to video", call={**CLIP, **WAN, "guidance_scale": 3.5}, conditions={"image": (16, 16)})
def wan22_i2v() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        transformer=WanTransformer3DModel(**wan_sizes(in_channels=36)),
        transformer_2=WanTransformer3DModel(**wan_sizes(in_channels=36)),
        boundary_ratio=0.9,
        scheduler=unipc(3.0),
        **wan_parts(),
    )


@tiny("image to video", call={**CLIP, **WAN, "height": 32, "width": 32}, conditions={"image": (32, 32)})
def wan22_5b_i2v() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        transformer=WanTransformer3DModel(**wan_sizes()), expand_timesteps=True, scheduler=unipc(5.0), **wan22_5b_parts()
    )


@tiny(
    "video to video",
    call={**CLIP, **WAN},
    conditions={"video": (5, 16, 16), "mask": (5, 16, 16), "reference_images": [(16, 16)]},
)
def wan_vace() -> WanVACEPipeline:
    """One clip at a time: the pipeline refuses lists of prompts and of generators."""
    return WanVACEPipeline(
        transformer=WanVACETransformer3DModel(**wan_sizes(), vace_layers=[0], vace_in_channels=96),
        scheduler=unipc(3.0),
        **wan_parts(),
    )


@tiny("video to video", call={**PICTURE, **WAN, "strength": 0.8, "num_inference_steps": 5}, conditions={"video": (5, 16, 16)})
def wan_v2v() -> WanVideoToVideoPipeline:
    return WanVideoToVideoPipeline(transformer=WanTransformer3DModel(**wan_sizes()), scheduler=unipc(3.0), **wan_parts())


@tiny(
    "video to video",
    call={**PICTURE, **WAN, "segment_frame_length": 5, "guidance_scale": 2.0},
    conditions={"image": (16, 16), "pose_video": (5, 16, 16), "face_video": (5, 16, 16)},
)
def wan_animate() -> WanAnimatePipeline:
    sizes = {"motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16}
    return WanAnimatePipeline(
        transformer=WanAnimateTransformer3DModel(
            **{**wan_sizes(in_channels=36), "num_attention_heads": 4},
            image_dim=WIDTH,
            added_kv_proj_dim=48,
            **sizes,
            motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
            face_encoder_hidden_dim=16,
            face_encoder_num_heads=2,
            inject_face_latents_blocks=1,
        ),
        scheduler=unipc(3.0),
        **wan_parts(),
        **eyes(),
    )


@tiny(
    "video to video",
    call={**PICTURE, **WAN, "segment_frame_length": 5, "guidance_scale": 2.0},
    conditions={"image": (16, 16), "pose_video": (9, 16, 16), "face_video": (9, 16, 16)},
)
def wan_animate_segments() -> WanAnimatePipeline:
    """Two segments, each denoised in a loop of its own, the second after the last decoded frame of the first."""
    return wan_animate()


CHRONO = {**CLIP, **WAN, "num_frames": 9}


@tiny("image to video", call=CHRONO, conditions={"image": (16, 16)})
def chronoedit() -> ChronoEditPipeline:
    return ChronoEditPipeline(
        transformer=ChronoEditTransformer3DModel(**wan_sizes(in_channels=36), **wan_sees_pictures()),
        scheduler=unipc(5.0),
        **wan_parts(),
        **eyes(),
    )


@tiny(
    "image to video",
    call={**CHRONO, "enable_temporal_reasoning": True, "num_temporal_reasoning_steps": 2},
    conditions={"image": (16, 16)},
)
def chronoedit_reasoning() -> ChronoEditPipeline:
    """After two steps only the first and the last latent frame go on."""
    return chronoedit()


@tiny("video to video", call={**CLIP, **WAN}, conditions={"video": (5, 16, 16)})
def lucy_edit() -> LucyEditPipeline:
    return LucyEditPipeline(transformer=WanTransformer3DModel(**wan_sizes(in_channels=32)), scheduler=unipc(5.0), **wan_parts())


@tiny("text to video", call={**CLIP, **WAN, "guidance_scale": 6.0})
def skyreels_v2() -> SkyReelsV2Pipeline:
    return SkyReelsV2Pipeline(transformer=SkyReelsV2Transformer3DModel(**wan_sizes()), scheduler=unipc(8.0), **wan_parts())


@tiny("image to video", call={**CLIP, **WAN}, conditions={"image": (16, 16)})
def skyreels_v2_i2v() -> SkyReelsV2ImageToVideoPipeline:
    return SkyReelsV2ImageToVideoPipeline(
        transformer=SkyReelsV2Transformer3DModel(**wan_sizes(in_channels=36), **wan_sees_pictures()),
        scheduler=unipc(5.0),
        **wan_parts(),
        image_encoder=CLIPVisionModelWithProjection(clip_vision_config()),
        image_processor=CLIPProcessor(clip_image_processor(), clip_tokenizer()),
    )


FORCING = {**CLIP, **WAN, "num_frames": 9, "base_num_frames": 9}


@tiny("text to video", call={**FORCING, "guidance_scale": 6.0})
def skyreels_v2_df() -> SkyReelsV2DiffusionForcingPipeline:
    return SkyReelsV2DiffusionForcingPipeline(**forcing_parts(8.0))


@tiny("text to video", call={**FORCING, "guidance_scale": 6.0, "ar_step": 1, "causal_block_size": 1})
def skyreels_v2_df_async() -> SkyReelsV2DiffusionForcingPipeline:
    """Every latent frame is one step behind the frame before it, so 6 calls of the denoiser make the 4 steps of 3 frames."""
    return SkyReelsV2DiffusionForcingPipeline(**forcing_parts(8.0))


@tiny("image to video", call=FORCING, conditions={"image": (16, 16)})
def skyreels_v2_df_i2v() -> SkyReelsV2DiffusionForcingImageToVideoPipeline:
    return SkyReelsV2DiffusionForcingImageToVideoPipeline(**forcing_parts(5.0))


@tiny("video to video", call={**FORCING, "overlap_history": 1}, conditions={"video": (5, 16, 16)})
def skyreels_v2_df_v2v() -> SkyReelsV2DiffusionForcingVideoToVideoPipeline:
    return SkyReelsV2DiffusionForcingVideoToVideoPipeline(**forcing_parts(8.0))


def unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def wan_sizes(in_channels: int = 16) -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": in_channels,
        "out_channels": 16,
        "text_dim": WIDTH,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 1,
        "rope_max_seq_len": 32,
    }


def wan_sees_pictures() -> dict[str, int]:
    return {"image_dim": WIDTH, "added_kv_proj_dim": 24}


def eyes() -> dict[str, Any]:
    return {"image_encoder": clip_vision(), "image_processor": clip_image_processor()}


def wan_parts() -> dict[str, Any]:
    return {"vae": wide_vae(), "text_encoder": umt5(), "tokenizer": byte_tokenizer()}


def wide_vae(**changes: Any) -> AutoencoderKLWan:
    """Wide enough that clips of different latents differ."""
    return wan_vae(base_dim=8, **changes)


def wan22_5b_parts() -> dict[str, Any]:
    """Its VAE shrinks by 16: patches of 2, and residual shortcuts."""
    vae = wide_vae(
        decoder_base_dim=8,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return {**wan_parts(), "vae": vae}


def forcing_parts(shift: float) -> dict[str, Any]:
    return {"transformer": SkyReelsV2Transformer3DModel(**wan_sizes()), "scheduler": unipc(shift), **wan_parts()}


TEMPLATE = {"template": "Clip: {}", "crop_start": 6}
HUNYUAN = {**CLIP, "guidance_scale": 6.0, "prompt_template": TEMPLATE, "max_sequence_length": 16}
TRUE_GUIDANCE = {**HUNYUAN, "guidance_scale": 1.0, "true_cfg_scale": 6.0, "negative_prompt": "blurry"}


@tiny("text to video", call=HUNYUAN)
def hunyuan_video() -> HunyuanVideoPipeline:
    return HunyuanVideoPipeline(transformer=HunyuanVideoTransformer3DModel(**hunyuan_sizes()), **hunyuan_parts())


@tiny("text to video", call=TRUE_GUIDANCE)
def hunyuan_video_true_cfg() -> HunyuanVideoPipeline:
    return hunyuan_video()


@tiny("image to video", call=TRUE_GUIDANCE, conditions={"image": (16, 16)})
def hunyuan_skyreels_i2v() -> HunyuanSkyreelsImageToVideoPipeline:
    return HunyuanSkyreelsImageToVideoPipeline(
        transformer=HunyuanVideoTransformer3DModel(**hunyuan_sizes(in_channels=8)), **hunyuan_parts()
    )


LLAVA = ("<image>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAVA_TEMPLATE = {
    "template": "<|start_header_id|>s<|end_header_id|><image><|eot_id|><|start_header_id|>u<|end_header_id|>{}<|eot_id|>"
    "<|start_header_id|>a<|end_header_id|>",
    "crop_start": 8,
    "image_emb_start": 3,
    "image_emb_end": 7,
    "image_emb_len": 4,
}
LLAVA_CALL = {**HUNYUAN, "num_frames": 9, "prompt_template": LLAVA_TEMPLATE, "max_sequence_length": 24}


@tiny("image to video", call=LLAVA_CALL, conditions={"image": (16, 16)})
def hunyuan_i2v() -> HunyuanVideoImageToVideoPipeline:
    return hunyuan_i2v_of(in_channels=9, image_condition_type="latent_concat", guidance_embeds=False)


@tiny("image to video", call=LLAVA_CALL, conditions={"image": (16, 16)})
def hunyuan_i2v_token_replace() -> HunyuanVideoImageToVideoPipeline:
    """The first latent frame is the picture's, and the sampler steps the others only."""
    return hunyuan_i2v_of(in_channels=4, image_condition_type="token_replace", guidance_embeds=True)


def hunyuan_i2v_of(**changes: Any) -> HunyuanVideoImageToVideoPipeline:
    parts = {**hunyuan_parts(), "text_encoder": llava(), "tokenizer": byte_tokenizer(*LLAVA)}
    return HunyuanVideoImageToVideoPipeline(
        transformer=HunyuanVideoTransformer3DModel(**hunyuan_sizes(**changes)),
        image_processor=clip_image_processor(),
        **parts,
    )


FRAMEPACK = {**HUNYUAN, "latent_window_size": 2}


@tiny("image to video", call=FRAMEPACK, conditions={"image": (16, 16)})
def framepack() -> HunyuanVideoFramepackPipeline:
    return HunyuanVideoFramepackPipeline(
        transformer=HunyuanVideoFramepackTransformer3DModel(
            **hunyuan_sizes(patch_size=2), has_image_proj=True, image_proj_dim=WIDTH, has_clean_x_embedder=True
        ),
        image_encoder=siglip(),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        **hunyuan_parts(),
    )


@tiny("image to video", call={**FRAMEPACK, "num_frames": 10}, conditions={"image": (16, 16)})
def framepack_sections() -> HunyuanVideoFramepackPipeline:
    """Two windows, each denoised in a loop of its own."""
    return framepack()


@tiny("text to video", call=CLIP)
def hunyuan_video15() -> HunyuanVideo15Pipeline:
    return HunyuanVideo15Pipeline(**hunyuan15_parts("t2v"))


@tiny("image to video", call={"num_frames": 5}, conditions={"image": (16, 16)})
def hunyuan_video15_i2v() -> HunyuanVideo15ImageToVideoPipeline:
    """The size of the clip comes from the picture's and the transformer's `target_size`."""
    return HunyuanVideo15ImageToVideoPipeline(
        image_encoder=siglip(), feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}), **hunyuan15_parts("i2v")
    )


def hunyuan_sizes(**changes: Any) -> dict[str, Any]:
    sizes = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "mlp_ratio": 2.0,
        "guidance_embeds": True,
        "text_embed_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "rope_axes_dim": (2, 4, 4),
    }
    return {**sizes, **changes}


def hunyuan_parts() -> dict[str, Any]:
    return {
        "vae": hunyuan_vae(),
        "text_encoder": LlamaModel(LlamaConfig(**language_sizes())),
        "tokenizer": byte_tokenizer(),
        "text_encoder_2": clip(max_position_embeddings=77),
        "tokenizer_2": clip_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.476986
    )


def llava() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=LlamaConfig(**language_sizes()),
            vision_config=clip_vision_config(),
            image_token_id=2,
            pad_token_id=0,
            vision_feature_layer=-2,
        )
    )


def siglip() -> SiglipVisionModel:
    """For pictures of 16 x 16, 4 tokens each."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    return SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=16, patch_size=8))


def hunyuan15_parts(task: str) -> dict[str, Any]:
    language = language_sizes(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]})
    return {
        "transformer": HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=1,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=WIDTH,
            text_embed_2_dim=WIDTH,
            image_embed_dim=WIDTH,
            rope_axes_dim=(2, 2, 4),
            target_size=16,
            task_type=task,
        ),
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            downsample_match_channel=False,
            upsample_match_channel=False,
        ),
        "text_encoder": Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**language)),
        "tokenizer": qwen_tokenizer(),
        "text_encoder_2": t5(vocab_size=384),
        "tokenizer_2": ByT5Tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }


KANDINSKY = {**CLIP, "guidance_scale": 5.0, "max_sequence_length": 600}
KANDINSKY_LORA = {"lora": {"targets": ["to_query", "to_key", "to_value"], "rank": 2, "alpha": 4}}


@tiny("text to video", call=KANDINSKY, options=KANDINSKY_LORA)
def kandinsky5() -> Kandinsky5T2VPipeline:
    return Kandinsky5T2VPipeline(**kandinsky5_parts())


@tiny("image to video", call={**KANDINSKY, "num_frames": 17}, conditions={"image": (16, 16)}, options=KANDINSKY_LORA)
def kandinsky5_i2v() -> Kandinsky5I2VPipeline:
    """The first latent frame is the picture's, and the sampler steps the others only.

    At the end the statistics of the first four are moved to those of the following ones, so there must be five.
    """
    return Kandinsky5I2VPipeline(**kandinsky5_parts())


@tiny("text to video", call=KANDINSKY, options=KANDINSKY_LORA)
def kandinsky6_t2va() -> Kandinsky6TI2VAPipeline:
    """Sound is denoised beside the clip, with a copy of the sampler."""
    return Kandinsky6TI2VAPipeline(
        transformer=randomize_zeros(
            Kandinsky6Transformer3DModel(**kandinsky_sizes(), in_audio_dim=4, out_audio_dim=4, visual_token_type_num_embeddings=2)
        ),
        audio_vae=MMAudioVAE(
            mel_bins=8,
            latent_channels=4,
            hidden_channels=8,
            channel_multipliers=(1, 2),
            layers_per_block=1,
            sample_rate=64,
            n_fft=16,
            hop_length=4,
        ),
        vocoder=MMAudioVocoder(
            num_mels=8,
            upsample_initial_channel=8,
            upsample_rates=(2, 2),
            upsample_kernel_sizes=(4, 4),
            resblock_kernel_sizes=(3,),
            resblock_dilation_sizes=((1, 3),),
        ),
        **kandinsky_parts(),
    )


@tiny("image to video", call=KANDINSKY, conditions={"image": (16, 16)}, options=KANDINSKY_LORA)
def kandinsky6_ti2va() -> Kandinsky6TI2VAPipeline:
    return kandinsky6_t2va()


COSMOS = {**CLIP, "guidance_scale": 7.0, "negative_prompt": "blurry", "max_sequence_length": 16}
REASON = {**CLIP, "guidance_scale": 7.0, "max_sequence_length": 128}


@tiny("text to video", call=COSMOS)
def cosmos1() -> CosmosTextToWorldPipeline:
    return CosmosTextToWorldPipeline(transformer=cosmos(4), **cosmos1_parts())


@tiny("image to video", call=COSMOS, conditions={"image": (16, 16)})
def cosmos1_v2w() -> CosmosVideoToWorldPipeline:
    return CosmosVideoToWorldPipeline(transformer=cosmos(5), **cosmos1_parts())


@tiny("video to video", call={**COSMOS, "num_frames": 9}, conditions={"video": (5, 16, 16)})
def cosmos1_v2w_clip() -> CosmosVideoToWorldPipeline:
    return cosmos1_v2w()


@tiny("image to video", call=COSMOS, conditions={"image": (16, 16)})
def cosmos2_v2w() -> Cosmos2VideoToWorldPipeline:
    return Cosmos2VideoToWorldPipeline(
        transformer=cosmos(17, 16),
        vae=wide_vae(),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=AllowAll(),
    )


@tiny("text to video", call=REASON)
def cosmos25() -> Cosmos2_5_PredictBasePipeline:
    return Cosmos2_5_PredictBasePipeline(transformer=cosmos25_transformer(), **cosmos25_parts())


@tiny("image to video", call=REASON, conditions={"image": (16, 16)})
def cosmos25_i2v() -> Cosmos2_5_PredictBasePipeline:
    return cosmos25()


@tiny("video to video", call={**REASON, "num_frames": 9}, conditions={"video": (5, 16, 16)})
def cosmos25_v2v() -> Cosmos2_5_PredictBasePipeline:
    """One clip at a time: the pipeline refuses a batch."""
    return cosmos25()


@tiny("control", call={**REASON, "guidance_scale": 3.0, "num_frames_per_chunk": 5}, conditions={"controls": (5, 16, 16)})
def cosmos25_transfer() -> Cosmos2_5_TransferPipeline:
    image = {"img_context_dim_in": WIDTH, "img_context_dim_out": WIDTH}
    return Cosmos2_5_TransferPipeline(
        transformer=cosmos25_transformer(**image, img_context_num_tokens=4, controlnet_block_every_n=1),
        controlnet=randomize_zeros(
            CosmosControlNetModel(
                n_controlnet_blocks=1,
                in_channels=18,
                latent_channels=18,
                model_channels=32,
                num_attention_heads=2,
                attention_head_dim=16,
                mlp_ratio=2.0,
                text_embed_dim=2 * WIDTH,
                adaln_lora_dim=4,
                max_size=(4, 32, 32),
                extra_pos_embed_type="learnable",
                **image,
            )
        ),
        **cosmos25_parts(),
    )


@tiny(
    "text to video",
    call={**CLIP, "guidance_scale": 6.0, "use_system_prompt": False, "add_duration_template": False},
)
def cosmos3() -> Cosmos3OmniPipeline:
    """One clip at a time: of a list of prompts the pipeline takes the first."""
    return Cosmos3OmniPipeline(
        transformer=Cosmos3OmniTransformer(
            head_dim=6,
            hidden_size=12,
            intermediate_size=16,
            latent_channel=16,
            latent_patch_size=1,
            num_attention_heads=2,
            num_hidden_layers=2,
            num_key_value_heads=1,
            patch_latent_dim=16,
            rope_axes_dim=[1, 1, 1],
            vocab_size=300,
        ),
        text_tokenizer=qwen_tokenizer(),
        vae=wide_vae(),
        scheduler=unipc(10.0),
        enable_safety_checker=False,
    )


def kandinsky5_parts() -> dict[str, Any]:
    return {"transformer": randomize_zeros(Kandinsky5Transformer3DModel(**kandinsky_sizes())), **kandinsky_parts()}


def kandinsky_sizes() -> dict[str, Any]:
    return {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": WIDTH,
        "in_text_dim2": WIDTH,
        "time_dim": 16,
        "patch_size": (1, 2, 2),
        "model_dim": 16,
        "ff_dim": 32,
        "num_text_blocks": 1,
        "num_visual_blocks": 1,
        "axes_dims": (4, 2, 2),
        "visual_cond": True,
    }


def kandinsky_parts() -> dict[str, Any]:
    return {
        "vae": hunyuan_vae(),
        "text_encoder": qwen2_5_vl(),
        "tokenizer": qwen2_5_vl_processor(),
        "text_encoder_2": clip(max_position_embeddings=77),
        "tokenizer_2": clip_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


def cosmos(in_channels: int, out_channels: int = 4, **changes: Any) -> CosmosTransformer3DModel:
    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": WIDTH,
        "adaln_lora_dim": 4,
        "max_size": (4, 32, 32),
    }
    return randomize_zeros(CosmosTransformer3DModel(in_channels=in_channels, out_channels=out_channels, **{**sizes, **changes}))


def cosmos1_parts() -> dict[str, Any]:
    return {
        "vae": AutoencoderKLCosmos(
            latent_channels=4,
            encoder_block_out_channels=(8, 8, 8, 8),
            decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,),
            resolution=64,
            num_layers=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
        ),
        "text_encoder": t5(),
        "tokenizer": byte_tokenizer(),
        "scheduler": EDMEulerScheduler(sigma_max=80.0, sigma_data=0.5, final_sigmas_type="sigma_min"),
        "safety_checker": AllowAll(),
    }


def cosmos25_transformer(**changes: Any) -> CosmosTransformer3DModel:
    """The text is all layers of the language model side by side."""
    return cosmos(17, 16, text_embed_dim=2 * WIDTH, **changes)


def cosmos25_parts() -> dict[str, Any]:
    return {
        "vae": wide_vae(),
        "text_encoder": qwen2_5_vl(),
        "tokenizer": qwen_tokenizer(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            use_karras_sigmas=True,
            sigma_max=200.0,
            sigma_min=0.01,
        ),
        "safety_checker": AllowAll(),
    }
