"""Flow-matching image-to-image, inpainting and editing pipelines."""

from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    BriaFiboEditPipeline,
    ChromaImg2ImgPipeline,
    ChromaInpaintPipeline,
    DreamLitePipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    JoyImageEditPipeline,
    JoyImageEditPlusPipeline,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
    Kandinsky5I2IPipeline,
    Kandinsky5Transformer3DModel,
    LongCatImageEditPipeline,
    OmniGenPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    QwenImageLayeredPipeline,
    SanaSprintImg2ImgPipeline,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
    VisualClozeGenerationPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImageOmniPipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

from flowgrpo.policies.tiny import tiny
from flowgrpo.policies.tiny.parts import (
    Model,
    flux2_vae,
    mistral3,
    pixtral_processor,
    qwen2_5_vl,
    qwen2_5_vl_processor,
    qwen3,
    qwen3_vl,
    qwen3_vl_processor,
    qwen_tokenizer,
    randomize_zeros,
    vae,
    wan_vae,
)
from flowgrpo.policies.tiny.text_to_image import (
    FLUX2_CALL,
    SANA_CALL,
    Z_IMAGE_CALL,
    bria_fibo,
    chroma,
    dreamlite_parts,
    flux2_transformer,
    flux_parts,
    kandinsky5_t2i,
    longcat_image,
    omnigen,
    qwenimage,
    qwenimage_scheduler,
    qwenimage_transformer,
    sana_parts,
    sd3_parts,
    z_image_parts,
)

PICTURE = {"image": (8, 8)}
PICTURE_AND_MASK = {"image": (8, 8), "mask_image": (8, 8)}


def amplified(model: Model) -> Model:
    """Convolutions without biases that keep the scale of what passes, so that a deep VAE makes different pictures."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


FLUX_CALL = {"height": 8, "width": 8, "guidance_scale": 3.5, "max_sequence_length": 16}
KONTEXT_CALL = {**FLUX_CALL, "max_area": 64, "_auto_resize": False}


@tiny("image to image", call=KONTEXT_CALL, conditions=PICTURE)
def flux_kontext() -> FluxKontextPipeline:
    return FluxKontextPipeline(**flux_parts())


@tiny("image to image", call={**KONTEXT_CALL, "negative_prompt": "blurry", "true_cfg_scale": 2.0}, conditions=PICTURE)
def flux_kontext_true_cfg() -> FluxKontextPipeline:
    return FluxKontextPipeline(**flux_parts())


@tiny(
    "image to image",
    call={**KONTEXT_CALL, "strength": 1.0},
    conditions={**PICTURE_AND_MASK, "image_reference": (8, 8)},
)
def flux_kontext_inpaint() -> FluxKontextInpaintPipeline:
    return FluxKontextInpaintPipeline(**flux_parts())


@tiny("image to image", call={**FLUX_CALL, "strength": 1.0}, conditions=PICTURE)
def flux_img2img() -> FluxImg2ImgPipeline:
    return FluxImg2ImgPipeline(**flux_parts())


@tiny("image to image", call={**FLUX_CALL, "strength": 0.5, "num_inference_steps": 8}, conditions=PICTURE)
def flux_img2img_half() -> FluxImg2ImgPipeline:
    return FluxImg2ImgPipeline(**flux_parts())


@tiny("image to image", call={**FLUX_CALL, "strength": 1.0}, conditions=PICTURE_AND_MASK)
def flux_inpaint() -> FluxInpaintPipeline:
    return FluxInpaintPipeline(**flux_parts())


@tiny("image to image", call={**FLUX_CALL, "strength": 1.0}, conditions=PICTURE_AND_MASK)
def flux_fill() -> FluxFillPipeline:
    return FluxFillPipeline(**flux_fill_parts())


@tiny(
    "image to image",
    call={"task_prompt": "fill in", "guidance_scale": 3.5, "max_sequence_length": 192},
    conditions={"image": [[(8, 8), (8, 8)], [(8, 8), None]]},
)
def visualcloze() -> VisualClozeGenerationPipeline:
    """The pipeline takes a task and a content where others take a prompt, and None for the picture to make."""
    return VisualClozeGenerationPipeline(**flux_fill_parts(), resolution=8)


def flux_fill_parts() -> dict[str, Any]:
    """Latents, masked latents and a mask are 36 channels."""
    return {**flux_parts(), "transformer": FluxTransformer2DModel(**{**flux_sizes(), "in_channels": 36, "out_channels": 16})}


def flux_sizes() -> dict[str, Any]:
    """Of the transformer, of a picture VAE with 4 channels."""
    return {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8),
        "guidance_embeds": True,
    }


FLUX2_EDIT_CALL = {**FLUX2_CALL, "height": 16, "width": 16}
FLUX2_KLEIN_CALL = {**FLUX2_EDIT_CALL, "max_sequence_length": 48}


@tiny("image to image", call={**FLUX2_EDIT_CALL, "max_sequence_length": 320}, conditions={"image": (64, 64)})
def flux2_edit() -> Flux2Pipeline:
    """The pipeline knows no smaller picture."""
    return Flux2Pipeline(**{**flux2_klein_parts(), **flux2_encoder()}, transformer=flux2_transformer())


@tiny("image to image", call=FLUX2_KLEIN_CALL, conditions={"image": [(64, 64), (64, 64)]})
def flux2_klein_edit() -> Flux2KleinPipeline:
    return Flux2KleinPipeline(**flux2_klein_parts(), transformer=flux2_transformer(guidance_embeds=False))


@tiny(
    "image to image",
    call={"height": 16, "width": 16, "text_encoder_out_layers": [1, 2], "max_sequence_length": 48},
    conditions={"image": (64, 64)},
)
def flux2_klein_kv() -> Flux2KleinKVPipeline:
    return Flux2KleinKVPipeline(**flux2_klein_parts(), transformer=flux2_transformer(guidance_embeds=False))


@tiny(
    "image to image",
    call={"strength": 1.0, "guidance_scale": 3.5, "text_encoder_out_layers": [1, 2], "max_sequence_length": 48},
    conditions={"image": (16, 16), "mask_image": (16, 16), "image_reference": (16, 16)},
)
def flux2_klein_inpaint() -> Flux2KleinInpaintPipeline:
    return Flux2KleinInpaintPipeline(**flux2_klein_parts(), transformer=flux2_transformer(guidance_embeds=False))


def flux2_klein_parts() -> dict[str, Any]:
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": flux2_vae(levels=3),
        "text_encoder": qwen3(),
        "tokenizer": qwen_tokenizer(),
    }


def flux2_encoder() -> dict[str, Any]:
    return {"text_encoder": mistral3(), "tokenizer": pixtral_processor()}


QWEN_CALL = {"height": 16, "width": 16, "true_cfg_scale": 3.0, "negative_prompt": "blurry", "max_sequence_length": 256}
QWEN_EDIT_CALL = {"height": 128, "width": 128, "true_cfg_scale": 3.0, "negative_prompt": "blurry"}


@tiny("image to image", call=QWEN_EDIT_CALL, conditions={"image": (64, 64)})
def qwen_edit() -> QwenImageEditPipeline:
    return QwenImageEditPipeline(**qwen_edit_parts())


@tiny("image to image", call=QWEN_EDIT_CALL, conditions={"image": [(64, 64)]})
def qwen_edit_plus() -> QwenImageEditPlusPipeline:
    return QwenImageEditPlusPipeline(**qwen_edit_parts(zero_cond_t=True))


@tiny("image to image", call={**QWEN_EDIT_CALL, "strength": 1.0}, conditions={"image": (64, 64), "mask_image": (64, 64)})
def qwen_edit_inpaint() -> QwenImageEditInpaintPipeline:
    return QwenImageEditInpaintPipeline(**qwen_edit_parts())


@tiny("image to image", call={**QWEN_CALL, "strength": 1.0}, conditions={"image": (16, 16)})
def qwen_img2img() -> QwenImageImg2ImgPipeline:
    return QwenImageImg2ImgPipeline(**qwenimage().components)


@tiny(
    "image to image",
    call={**QWEN_CALL, "strength": 1.0},
    conditions={"image": (16, 16), "mask_image": (16, 16)},
)
def qwen_inpaint() -> QwenImageInpaintPipeline:
    return QwenImageInpaintPipeline(**qwenimage().components)


@tiny(
    "image to image",
    call={"layers": 2, "true_cfg_scale": 3.0, "negative_prompt": "blurry", "cfg_normalize": True},
    conditions={"image": (64, 64)},
)
def qwen_layered() -> QwenImageLayeredPipeline:
    """The pipeline makes pictures of 640 x 640 at the smallest."""
    return QwenImageLayeredPipeline(**qwen_edit_parts(use_additional_t_cond=True, use_layer3d_rope=True))


def qwen_edit_parts(**changes: Any) -> dict[str, Any]:
    """The pipelines scale the picture to a million pixels: the VAE shrinks by 32, and does little before it has shrunk."""
    return {
        "transformer": qwenimage_transformer(**changes),
        "scheduler": qwenimage_scheduler(),
        "vae": amplified(
            AutoencoderKLQwenImage(
                base_dim=2,
                z_dim=4,
                dim_mult=[1] * 6,
                num_res_blocks=0,
                temperal_downsample=[False] * 5,
                latents_mean=[0.1] * 4,
                latents_std=[1.5] * 4,
            )
        ),
        "text_encoder": qwen2_5_vl(),
        "tokenizer": qwen_tokenizer(),
        "processor": qwen2_5_vl_processor(),
    }


SD3_CALL = {"height": 8, "width": 8, "guidance_scale": 3.0, "strength": 1.0, "max_sequence_length": 16}


@tiny("image to image", call=SD3_CALL, conditions=PICTURE)
def sd3_img2img() -> StableDiffusion3Img2ImgPipeline:
    return StableDiffusion3Img2ImgPipeline(**sd3_parts())


@tiny("image to image", call=SD3_CALL, conditions=PICTURE_AND_MASK)
def sd3_inpaint() -> StableDiffusion3InpaintPipeline:
    return StableDiffusion3InpaintPipeline(**sd3_wide_parts())


@tiny("image to image", call={**SD3_CALL, "pag_scale": 1.0, "pag_adaptive_scale": 0.003}, conditions=PICTURE)
def sd3_pag_img2img() -> StableDiffusion3PAGImg2ImgPipeline:
    return StableDiffusion3PAGImg2ImgPipeline(**sd3_parts(layers=2))


def sd3_wide_parts(layers: int = 1) -> dict[str, Any]:
    """Some pipelines know no fewer channels than 16."""
    return {**sd3_parts(), "transformer": SD3Transformer2DModel(**sd3_wide_sizes(), num_layers=layers), "vae": vae(16)}


def sd3_wide_sizes() -> dict[str, Any]:
    return {
        "sample_size": 8,
        "patch_size": 1,
        "in_channels": 16,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 64,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 64,
        "pos_embed_max_size": 8,
    }


@tiny("image to image", call={**Z_IMAGE_CALL, "strength": 1.0}, conditions=PICTURE)
def z_image_img2img() -> ZImageImg2ImgPipeline:
    return ZImageImg2ImgPipeline(**z_image_parts())


@tiny("image to image", call={**Z_IMAGE_CALL, "strength": 1.0}, conditions=PICTURE_AND_MASK)
def z_image_inpaint() -> ZImageInpaintPipeline:
    return ZImageInpaintPipeline(**z_image_parts())


@tiny(
    "image to image",
    call={**Z_IMAGE_CALL, "height": 16, "width": 16},
    conditions={"image": (64, 64)},
    options={"dtype": "bf16"},
)
def z_image_omni() -> ZImageOmniPipeline:
    """The pipeline knows no smaller picture, and gives bfloat16 to its VAE."""
    parts = z_image_parts()
    sees = ZImageTransformer2DModel.from_config(parts["transformer"].config, siglip_feat_dim=16)
    vision = Siglip2VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_patches=16, patch_size=16
    )
    return ZImageOmniPipeline(
        **{
            **parts,
            "transformer": randomize_zeros(sees),
            "vae": vae(4, levels=3),
            "siglip": Siglip2VisionModel(vision),
            "siglip_processor": Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
        }
    )


@tiny(
    "image to image",
    call={
        "height": 32,
        "width": 32,
        "guidance_scale": 3.0,
        "negative_prompt": '{"edit_instruction": "blur"}',
        "max_sequence_length": 64,
    },
    conditions={"image": (32, 32)},
    prompt='{"edit_instruction": "make it red"}',
)
def bria_fibo_edit() -> BriaFiboEditPipeline:
    """The VAE shrinks by 16, as the pipeline takes for granted."""
    shrinks = wan_vae(dim_mult=[1] * 5, temperal_downsample=[False, False, True, True])
    return BriaFiboEditPipeline(**{**bria_fibo().components, "vae": amplified(shrinks)})


CHROMA_CALL = {**FLUX_CALL, "negative_prompt": "blurry", "strength": 1.0}


@tiny("image to image", call=CHROMA_CALL, conditions=PICTURE)
def chroma_img2img() -> ChromaImg2ImgPipeline:
    return ChromaImg2ImgPipeline(**chroma().components)


@tiny("image to image", call=CHROMA_CALL, conditions=PICTURE_AND_MASK)
def chroma_inpaint() -> ChromaInpaintPipeline:
    """The pipeline reads a field of the transformer's config that its class does not have."""
    parts = chroma().components
    parts["transformer"].register_to_config(guidance_embeds=False)
    return ChromaInpaintPipeline(**parts)


@tiny(
    "image to image",
    call={"height": 1408, "width": 640, "guidance_scale": 3.5, "max_sequence_length": 512},
    conditions={"image": (64, 64)},
    options={"lora": {"targets": ["to_query", "to_key", "to_value"], "rank": 2, "alpha": 4}},
)
def kandinsky5_i2i() -> Kandinsky5I2IPipeline:
    """The pipeline knows no smaller size, and takes it for granted that the VAE shrinks by 8."""
    parts = kandinsky5_t2i().components
    sees = Kandinsky5Transformer3DModel.from_config(parts["transformer"].config, visual_cond=True)
    return Kandinsky5I2IPipeline(**{**parts, "transformer": randomize_zeros(sees), "vae": quick_vae(4, levels=4)})


def quick_vae(channels: int, levels: int) -> AutoencoderKL:
    """A picture VAE for a million pixels."""
    return vae(
        channels,
        levels,
        block_out_channels=(4,) * levels,
        layers_per_block=0,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )


JOY_LORA = {"lora": {"targets": ["img_attn_qkv", "txt_attn_qkv"], "rank": 2, "alpha": 4}}


@tiny("image to image", call={"guidance_scale": 4.0}, conditions={"image": (64, 64)}, options=JOY_LORA)
def joyimage_edit() -> JoyImageEditPipeline:
    return JoyImageEditPipeline(**joyimage_parts(), transformer=JoyImageEditTransformer3DModel(**joyimage_sizes()))


@tiny("image to image", call={"guidance_scale": 4.0}, conditions={"images": [(64, 64), (64, 64)]}, options=JOY_LORA)
def joyimage_edit_plus() -> JoyImageEditPlusPipeline:
    return JoyImageEditPlusPipeline(**joyimage_parts(), transformer=JoyImageEditPlusTransformer3DModel(**joyimage_sizes()))


def joyimage_sizes() -> dict[str, Any]:
    return {
        "in_channels": 4,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "text_dim": 32,
        "mlp_width_ratio": 2.0,
        "num_layers": 1,
        "rope_dim_list": [4, 6, 6],
    }


def joyimage_parts() -> dict[str, Any]:
    """The pipelines make pictures of a million pixels: patches of the VAE are large."""
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=4.0),
        "vae": amplified(
            AutoencoderKLWan(
                base_dim=3,
                z_dim=4,
                dim_mult=[1, 1],
                num_res_blocks=1,
                temperal_downsample=[False],
                latents_mean=[0.1] * 4,
                latents_std=[1.5] * 4,
                patch_size=16,
                in_channels=3 * 16**2,
                out_channels=3 * 16**2,
                scale_factor_temporal=1,
                scale_factor_spatial=32,
            )
        ),
        "text_encoder": qwen3_vl(),
        "tokenizer": qwen_tokenizer(),
        "processor": qwen3_vl_processor(),
    }


@tiny("image to image", call={"guidance_scale": 4.5}, conditions={"image": (64, 64)})
def longcat_edit() -> LongCatImageEditPipeline:
    """The pipeline makes pictures of a million pixels."""
    return LongCatImageEditPipeline(**{**longcat_image().components, "vae": quick_vae(16, levels=6)})


@tiny(
    "image to image", call={**SANA_CALL, "intermediate_timesteps": None, "strength": 1.0}, conditions={"image": (32, 32)}, steps=2
)
def sana_sprint_img2img() -> SanaSprintImg2ImgPipeline:
    parts = sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return SanaSprintImg2ImgPipeline(**parts, scheduler=SCMScheduler())


@tiny(
    "image to image",
    call={"height": 32, "width": 32, "guidance_scale": 2.5, "img_guidance_scale": 1.6, "max_input_image_size": 32},
    conditions={"input_images": [(32, 32)]},
    prompt="make <img><|image_1|></img> red",
)
def omnigen_edit() -> OmniGenPipeline:
    return omnigen()


@tiny(
    "image to image",
    call={"height": 16, "width": 16, "guidance_scale": 3.5, "image_guidance_scale": 1.5},
    conditions={"image": (16, 16)},
)
def dreamlite_edit() -> DreamLitePipeline:
    return DreamLitePipeline(**dreamlite_parts())
