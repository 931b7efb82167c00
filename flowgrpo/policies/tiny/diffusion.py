"""Pipelines of the variance-preserving family: U-Nets and transformers that predict the noise or the velocity.

Most pictures have 16 x 16 pixels, most latents 8 x 8.
"""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    ControlNetModel,
    ControlNetUnionModel,
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    HunyuanDiTControlNetPipeline,
    HunyuanDiTPAGPipeline,
    HunyuanDiTPipeline,
    IFPipeline,
    Kandinsky3Img2ImgPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMTextToImagePipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionGLIGENPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    StableDiffusionXLPAGPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    VQModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import BertConfig, BertModel, DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from flowgrpo.policies.tiny import tiny
from flowgrpo.policies.tiny.parts import WIDTH, byte_tokenizer, clip, clip_tokenizer, clip_with_projection, t5, vae

PICTURE = (16, 16)
SIZE = {"height": 16, "width": 16}
GUIDED = {"guidance_scale": 5.0}
WHOLE = {"strength": 1.0, **GUIDED}
IMAGE = {"image": PICTURE}
MASKED = {"image": PICTURE, "mask_image": PICTURE}
HALFWAY = {"control_guidance_start": 0.25, "control_guidance_end": 0.75}
"""A control net that works in two of four steps."""
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The noise schedule of latent diffusion."""


def awake(module: Any) -> Any:
    """Fill the layers that start at zero, which would leave a control without effect."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return module


# Stable Diffusion


def ddim(**changes: Any) -> DDIMScheduler:
    return DDIMScheduler(**{**LATENT, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **changes})


def pndm(**changes: Any) -> PNDMScheduler:
    return PNDMScheduler(**{**LATENT, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1, **changes})


def sd_sizes(**changes: Any) -> dict[str, Any]:
    """What the U-Net and its control net share."""
    sizes = {
        "in_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    }
    return {**sizes, **changes}


def sd_unet(**changes: Any) -> UNet2DConditionModel:
    up = ("UpBlock2D", "CrossAttnUpBlock2D")
    return UNet2DConditionModel(**{"sample_size": 8, "out_channels": 4, "up_block_types": up, **sd_sizes(**changes)})


def sd_control() -> ControlNetModel:
    return awake(ControlNetModel(**sd_sizes(), conditioning_embedding_out_channels=(8, 8)))


def picture_vae() -> AutoencoderKL:
    return vae(4, levels=2)


def sd_parts(**changes: Any) -> dict[str, Any]:
    parts = {"vae": picture_vae(), "text_encoder": clip(), "tokenizer": clip_tokenizer(), "unet": sd_unet()}
    return {**parts, "scheduler": ddim(), **changes}


def unchecked(**changes: Any) -> dict[str, Any]:
    return {**sd_parts(**changes), "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@tiny("text to image", call={**SIZE, **GUIDED})
def sd15() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(**unchecked())


@tiny("text to image", call={**SIZE, **GUIDED, "guidance_rescale": 0.7})
def sd15_rescale() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(**unchecked())


@tiny("text to image", call={**SIZE, **GUIDED})
def sd15_dpm() -> StableDiffusionPipeline:
    scheduler = DPMSolverMultistepScheduler(**LATENT, steps_offset=1)
    return StableDiffusionPipeline(**unchecked(scheduler=scheduler))


@tiny("text to image", call={**SIZE, **GUIDED})
def sd15_pndm() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(**unchecked(scheduler=pndm()))


@tiny("text to image", call={**SIZE, **GUIDED})
def sd2() -> StableDiffusionPipeline:
    unet = sd_unet(attention_head_dim=(2, 4), use_linear_projection=True)
    return StableDiffusionPipeline(**unchecked(unet=unet, scheduler=ddim(prediction_type="v_prediction")))


@tiny("text to image", call={**SIZE, **GUIDED, "pag_scale": 3.0})
def sd_pag() -> StableDiffusionPAGPipeline:
    return StableDiffusionPAGPipeline(**unchecked())


@tiny("text to image", call={**SIZE, **GUIDED, "pag_scale": 3.0, "pag_adaptive_scale": 0.005})
def sd_pag_adaptive() -> StableDiffusionPAGPipeline:
    """The perturbed guidance fades out halfway."""
    return StableDiffusionPAGPipeline(**unchecked())


@tiny(
    "text to image",
    call={
        **SIZE,
        **GUIDED,
        "gligen_phrases": ["a circle"],
        "gligen_boxes": [[0.1, 0.2, 0.6, 0.7]],
        "gligen_scheduled_sampling_beta": 0.5,
    },
)
def gligen() -> StableDiffusionGLIGENPipeline:
    return StableDiffusionGLIGENPipeline(**unchecked(unet=awake(sd_unet(attention_type="gated"))))


@tiny("image to image", call=WHOLE, conditions=IMAGE)
def sd15_img2img() -> StableDiffusionImg2ImgPipeline:
    return StableDiffusionImg2ImgPipeline(**unchecked())


@tiny("image to image", call={**WHOLE, "strength": 0.5, "num_inference_steps": 8}, conditions=IMAGE)
def sd15_img2img_half() -> StableDiffusionImg2ImgPipeline:
    return StableDiffusionImg2ImgPipeline(**unchecked())


@tiny("image to image", call={**SIZE, **WHOLE}, conditions=MASKED)
def sd15_inpaint() -> StableDiffusionInpaintPipeline:
    return StableDiffusionInpaintPipeline(**unchecked(unet=sd_unet(in_channels=9)))


@tiny("image to image", call={**SIZE, **WHOLE}, conditions=MASKED)
def sd15_inpaint_blend() -> StableDiffusionInpaintPipeline:
    """With a U-Net that sees no mask, the known part is put back after each step."""
    return StableDiffusionInpaintPipeline(**unchecked())


@tiny("image to image", call=WHOLE, conditions=IMAGE)
def sd_depth2img() -> StableDiffusionDepth2ImgPipeline:
    sizes = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    depth = DPTConfig(
        **sizes,
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    return StableDiffusionDepth2ImgPipeline(
        **sd_parts(unet=sd_unet(in_channels=5)),
        depth_estimator=DPTForDepthEstimation(depth),
        feature_extractor=DPTImageProcessor(size={"height": 32, "width": 32}, ensure_multiple_of=16),
    )


@tiny("image to image", call={**GUIDED, "noise_level": 20}, conditions={"image": (8, 8)})
def sd_upscale() -> StableDiffusionUpscalePipeline:
    return StableDiffusionUpscalePipeline(
        **sd_parts(
            vae=vae(4, levels=2, scaling_factor=0.08333),
            unet=sd_unet(in_channels=7, num_class_embeds=1000, only_cross_attention=(True, False)),
            scheduler=DDIMScheduler(clip_sample=False, prediction_type="v_prediction", steps_offset=1),
        ),
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear"),
    )


@tiny("image to image", call=GUIDED, conditions=IMAGE)
def sd_latent_upscale() -> StableDiffusionLatentUpscalePipeline:
    unet = UNet2DConditionModel(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        time_cond_proj_dim=128 + WIDTH,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=WIDTH,
        down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"),
        in_channels=8,
        out_channels=5,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
    )
    return StableDiffusionLatentUpscalePipeline(
        **sd_parts(unet=unet, scheduler=EulerDiscreteScheduler(**LATENT, prediction_type="sample"))
    )


@tiny("image to image", call={**GUIDED, "image_guidance_scale": 1.5}, conditions=IMAGE)
def pix2pix() -> StableDiffusionInstructPix2PixPipeline:
    return StableDiffusionInstructPix2PixPipeline(**unchecked(unet=sd_unet(in_channels=8), scheduler=euler()))


@tiny("control", call=GUIDED, conditions=IMAGE)
def sd_controlnet() -> StableDiffusionControlNetPipeline:
    return StableDiffusionControlNetPipeline(**unchecked(), controlnet=sd_control())


@tiny("control", call={**GUIDED, **HALFWAY}, conditions=IMAGE)
def sd_controlnet_interval() -> StableDiffusionControlNetPipeline:
    return StableDiffusionControlNetPipeline(**unchecked(), controlnet=sd_control())


@tiny("control", call={**GUIDED, "pag_scale": 3.0}, conditions=IMAGE)
def sd_controlnet_pag() -> StableDiffusionControlNetPAGPipeline:
    return StableDiffusionControlNetPAGPipeline(**unchecked(), controlnet=sd_control())


@tiny("control", call=WHOLE, conditions={"image": PICTURE, "control_image": PICTURE})
def sd_controlnet_img2img() -> StableDiffusionControlNetImg2ImgPipeline:
    return StableDiffusionControlNetImg2ImgPipeline(**unchecked(), controlnet=sd_control())


@tiny("control", call={**SIZE, **WHOLE}, conditions={**MASKED, "control_image": PICTURE})
def sd_controlnet_inpaint() -> StableDiffusionControlNetInpaintPipeline:
    return StableDiffusionControlNetInpaintPipeline(**unchecked(), controlnet=sd_control())


@tiny("control", call={**SIZE, **GUIDED, "adapter_conditioning_scale": 0.8}, conditions=IMAGE)
def sd_adapter() -> StableDiffusionAdapterPipeline:
    return StableDiffusionAdapterPipeline(**unchecked(), adapter=adapter("full_adapter", downscale_factor=2))


def adapter(kind: str, downscale_factor: int) -> T2IAdapter:
    return T2IAdapter(3, channels=[8, 16], num_res_blocks=1, downscale_factor=downscale_factor, adapter_type=kind)


# latent consistency


def lcm_parts() -> dict[str, Any]:
    return unchecked(unet=sd_unet(time_cond_proj_dim=16), scheduler=LCMScheduler(**LATENT))


@tiny("text to image", call={**SIZE, **GUIDED})
def lcm() -> LatentConsistencyModelPipeline:
    return LatentConsistencyModelPipeline(**lcm_parts())


@tiny("image to image", call=WHOLE, conditions=IMAGE)
def lcm_img2img() -> LatentConsistencyModelImg2ImgPipeline:
    return LatentConsistencyModelImg2ImgPipeline(**lcm_parts())


# Stable Diffusion XL


def euler(**changes: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**{**LATENT, "timestep_spacing": "leading", "steps_offset": 1, **changes})


def sdxl_sizes(**changes: Any) -> dict[str, Any]:
    """What the U-Net and its control net share."""
    sizes = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "cross_attention_dim": 2 * WIDTH,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
    }
    return sd_sizes(**{**sizes, **changes})


def sdxl_unet(**changes: Any) -> UNet2DConditionModel:
    return sd_unet(**sdxl_sizes(up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **changes))


def sdxl_control() -> ControlNetModel:
    return awake(ControlNetModel(**sdxl_sizes(), conditioning_embedding_out_channels=(8, 8)))


def sdxl_parts(**changes: Any) -> dict[str, Any]:
    second = {"text_encoder_2": clip_with_projection(), "tokenizer_2": clip_tokenizer()}
    return {**sd_parts(unet=sdxl_unet(), scheduler=euler()), **second, **changes}


@tiny("text to image", call={**SIZE, **GUIDED})
def sdxl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(**sdxl_parts())


@tiny("text to image", call={**SIZE, **GUIDED})
def sdxl_unipc() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(**sdxl_parts(scheduler=UniPCMultistepScheduler(**LATENT, steps_offset=1)))


@tiny("text to image", call={**SIZE, **GUIDED, "pag_scale": 3.0})
def sdxl_pag() -> StableDiffusionXLPAGPipeline:
    return StableDiffusionXLPAGPipeline(**sdxl_parts())


@tiny("image to image", call=WHOLE, conditions=IMAGE)
def sdxl_img2img() -> StableDiffusionXLImg2ImgPipeline:
    return StableDiffusionXLImg2ImgPipeline(**sdxl_parts())


@tiny("image to image", call={**SIZE, **WHOLE}, conditions=MASKED)
def sdxl_inpaint() -> StableDiffusionXLInpaintPipeline:
    return StableDiffusionXLInpaintPipeline(**sdxl_parts(unet=sdxl_unet(in_channels=9)))


@tiny("image to image", call={**SIZE, **GUIDED, "image_guidance_scale": 1.5}, conditions=IMAGE)
def sdxl_pix2pix() -> StableDiffusionXLInstructPix2PixPipeline:
    return StableDiffusionXLInstructPix2PixPipeline(**sdxl_parts(unet=sdxl_unet(in_channels=8)))


@tiny("control", call=GUIDED, conditions=IMAGE)
def sdxl_controlnet() -> StableDiffusionXLControlNetPipeline:
    return StableDiffusionXLControlNetPipeline(**sdxl_parts(), controlnet=sdxl_control())


@tiny("control", call=WHOLE, conditions={"image": PICTURE, "control_image": PICTURE})
def sdxl_controlnet_img2img() -> StableDiffusionXLControlNetImg2ImgPipeline:
    return StableDiffusionXLControlNetImg2ImgPipeline(**sdxl_parts(), controlnet=sdxl_control())


@tiny("control", call={**GUIDED, "control_mode": 3}, conditions={"control_image": PICTURE})
def sdxl_controlnet_union() -> StableDiffusionXLControlNetUnionPipeline:
    controlnet = ControlNetUnionModel(
        **sdxl_sizes(),
        conditioning_embedding_out_channels=(8, 8),
        num_trans_channel=8,
        num_trans_head=2,
        num_trans_layer=1,
        num_proj_channel=8,
    )
    return StableDiffusionXLControlNetUnionPipeline(**sdxl_parts(), controlnet=awake(controlnet))


@tiny("control", call={**SIZE, **GUIDED, "adapter_conditioning_factor": 0.5}, conditions=IMAGE)
def sdxl_adapter() -> StableDiffusionXLAdapterPipeline:
    """The adapter works in the first half of the steps."""
    return StableDiffusionXLAdapterPipeline(**sdxl_parts(), adapter=adapter("full_adapter_xl", downscale_factor=4))


# the transformers


def pixart(sample_size: int) -> dict[str, Any]:
    """With a size of 128, and only then, the transformer and the pipeline condition on the picture's size."""
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        cross_attention_dim=24,
        caption_channels=WIDTH,
    )
    scheduler = DPMSolverMultistepScheduler()
    encoder = {"text_encoder": t5(), "tokenizer": byte_tokenizer()}
    return {"transformer": transformer, "scheduler": scheduler, "vae": picture_vae(), **encoder}


PIXART = {**SIZE, **GUIDED, "max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False}


@tiny("text to image", call=PIXART)
def pixart_alpha() -> PixArtAlphaPipeline:
    return PixArtAlphaPipeline(**pixart(sample_size=128))


@tiny("text to image", call=PIXART)
def pixart_sigma() -> PixArtSigmaPipeline:
    return PixArtSigmaPipeline(**pixart(sample_size=8))


@tiny("text to image", call={**PIXART, "pag_scale": 3.0})
def pixart_sigma_pag() -> PixArtSigmaPAGPipeline:
    return PixArtSigmaPAGPipeline(**pixart(sample_size=8))


HUNYUAN_SIZES = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "hidden_size": 16,
    "cross_attention_dim": WIDTH,
    "cross_attention_dim_t5": WIDTH,
    "pooled_projection_dim": 16,
}
HUNYUAN = {**SIZE, **GUIDED, "use_resolution_binning": False}


def hunyuan_parts() -> dict[str, Any]:
    first = byte_tokenizer()
    bert = BertConfig(
        vocab_size=len(first),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=77,
    )
    return {
        "transformer": HunyuanDiT2DModel(num_layers=4, **HUNYUAN_SIZES),
        "scheduler": DDPMScheduler(
            **{**LATENT, "beta_end": 0.02}, clip_sample=False, prediction_type="v_prediction", steps_offset=1
        ),
        "vae": picture_vae(),
        "text_encoder": BertModel(bert),
        "tokenizer": first,
        "text_encoder_2": t5(),
        "tokenizer_2": byte_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@tiny("text to image", call=HUNYUAN)
def hunyuandit() -> HunyuanDiTPipeline:
    return HunyuanDiTPipeline(**hunyuan_parts())


@tiny("text to image", call={**HUNYUAN, "pag_scale": 3.0})
def hunyuandit_pag() -> HunyuanDiTPAGPipeline:
    return HunyuanDiTPAGPipeline(**hunyuan_parts())


@tiny("control", call=HUNYUAN, conditions={"control_image": PICTURE})
def hunyuandit_controlnet() -> HunyuanDiTControlNetPipeline:
    controlnet = awake(HunyuanDiT2DControlNetModel(transformer_num_layers=4, **HUNYUAN_SIZES))
    return HunyuanDiTControlNetPipeline(**hunyuan_parts(), controlnet=controlnet)


@tiny("text to image", call={**SIZE, **GUIDED, "max_sequence_length": 16})
def cogview3() -> CogView3PlusPipeline:
    transformer = CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=4.0, timestep_spacing="trailing"
    )
    return CogView3PlusPipeline(
        transformer=transformer, scheduler=scheduler, vae=picture_vae(), text_encoder=t5(), tokenizer=byte_tokenizer()
    )


@tiny("class to image", call={**GUIDED, "class_labels": [207, 360]})
def dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(sample_size=8, out_channels=8, num_layers=1, attention_head_dim=8, num_attention_heads=2)
    return DiTPipeline(transformer=transformer, scheduler=DDIMScheduler(clip_sample=False), vae=picture_vae())


# other U-Nets


def movq() -> VQModel:
    return VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=12,
        norm_num_groups=4,
        norm_type="spatial",
    )


def kandinsky3_parts() -> dict[str, Any]:
    unet = Kandinsky3UNet(
        time_embedding_dim=16,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        encoder_hid_dim=WIDTH,
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=2.0)
    encoder = {"text_encoder": t5(), "tokenizer": byte_tokenizer()}
    return {"unet": unet, "scheduler": scheduler, "movq": movq(), **encoder}


@tiny("text to image", call={**SIZE, **GUIDED})
def kandinsky3() -> Kandinsky3Pipeline:
    return Kandinsky3Pipeline(**kandinsky3_parts())


@tiny("image to image", call=WHOLE, conditions=IMAGE)
def kandinsky3_img2img() -> Kandinsky3Img2ImgPipeline:
    return Kandinsky3Img2ImgPipeline(**kandinsky3_parts())


@tiny("text to image", call={"height": 8, "width": 8, **GUIDED, "clean_caption": False})
def deepfloyd_if() -> IFPipeline:
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
        variance_type="learned_range",
    )
    return IFPipeline(
        unet=unet,
        scheduler=scheduler,
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


@tiny("text to image", call={"height": 32, "width": 32, **GUIDED})
def latent_diffusion() -> LDMTextToImagePipeline:
    """The pipeline divides the picture's size by 8, whatever its VAE does."""
    tokenizer = byte_tokenizer()
    bert = LDMBertConfig(
        vocab_size=len(tokenizer),
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=4,
        head_dim=8,
        d_model=WIDTH,
    )
    return LDMTextToImagePipeline(
        vqvae=vae(4, levels=4),
        bert=LDMBertModel(bert),
        tokenizer=tokenizer,
        unet=sd_unet(sample_size=4),
        scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
    )


@tiny("text to image", call={"height": 170, "width": 170, "guidance_scale": 4.0})
def stable_cascade_prior() -> StableCascadePriorPipeline:
    """Its output is the latents of 42.67 x 42.67 pixels each, which a second pipeline decodes."""
    prior = StableCascadeUNet(
        timestep_ratio_embedding_dim=16,
        conditioning_dim=16,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_image_in_channels=WIDTH,
        clip_text_in_channels=WIDTH,
        clip_text_pooled_in_channels=WIDTH,
        switch_level=(False,),
    )
    return StableCascadePriorPipeline(
        tokenizer=clip_tokenizer(),
        text_encoder=clip_with_projection(),
        prior=prior,
        scheduler=DDPMWuerstchenScheduler(),
    )
