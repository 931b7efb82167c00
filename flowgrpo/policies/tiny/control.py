"""Flow-matching pipelines that a control picture steers."""

from typing import Any

from diffusers import (
    CogView4ControlPipeline,
    CogView4Transformer2DModel,
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxTransformer2DModel,
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    StableDiffusion3ControlNetPipeline,
    ZImageControlNetInpaintPipeline,
    ZImageControlNetModel,
    ZImageControlNetPipeline,
)

from flowgrpo.policies.tiny import tiny
from flowgrpo.policies.tiny.editing import FLUX_CALL, PICTURE_AND_MASK, QWEN_CALL, flux_sizes, sd3_wide_parts, sd3_wide_sizes
from flowgrpo.policies.tiny.parts import randomize_zeros
from flowgrpo.policies.tiny.text_to_image import (
    SANA_CALL,
    Z_IMAGE_CALL,
    cogview4,
    flux_parts,
    qwenimage,
    sana_parts,
    sana_scheduler,
    z_image_parts,
)

CONTROL = {"control_image": (8, 8)}
FIRST_HALF = {"control_guidance_end": 0.5}
"""The control net is scaled to nothing after half of the steps."""


@tiny("control", call=FLUX_CALL, conditions=CONTROL)
def flux_control() -> FluxControlPipeline:
    return FluxControlPipeline(**flux_control_parts())


@tiny("control", call={**FLUX_CALL, "strength": 1.0}, conditions={**CONTROL, "image": (8, 8)})
def flux_control_img2img() -> FluxControlImg2ImgPipeline:
    return FluxControlImg2ImgPipeline(**flux_control_parts())


@tiny("control", call={**FLUX_CALL, "strength": 1.0}, conditions={**CONTROL, **PICTURE_AND_MASK})
def flux_control_inpaint() -> FluxControlInpaintPipeline:
    return FluxControlInpaintPipeline(**flux_control_parts())


def flux_control_parts() -> dict[str, Any]:
    """Latents and control are 32 channels."""
    return {**flux_parts(), "transformer": FluxTransformer2DModel(**{**flux_sizes(), "in_channels": 32, "out_channels": 16})}


@tiny("control", call=FLUX_CALL, conditions=CONTROL)
def flux_controlnet() -> FluxControlNetPipeline:
    return FluxControlNetPipeline(**flux_controlnet_parts())


@tiny(
    "control",
    call={**FLUX_CALL, **FIRST_HALF, "control_mode": 1, "true_cfg_scale": 2.0, "negative_prompt": "blurry"},
    conditions=CONTROL,
)
def flux_controlnet_union() -> FluxControlNetPipeline:
    return FluxControlNetPipeline(**flux_controlnet_parts(num_mode=2))


@tiny("control", call={**FLUX_CALL, "strength": 1.0}, conditions={**CONTROL, "image": (8, 8)})
def flux_controlnet_img2img() -> FluxControlNetImg2ImgPipeline:
    return FluxControlNetImg2ImgPipeline(**flux_controlnet_parts())


@tiny("control", call={**FLUX_CALL, "strength": 1.0}, conditions={**CONTROL, **PICTURE_AND_MASK})
def flux_controlnet_inpaint() -> FluxControlNetInpaintPipeline:
    return FluxControlNetInpaintPipeline(**flux_controlnet_parts())


def flux_controlnet_parts(**changes: Any) -> dict[str, Any]:
    return {**flux_parts(), "controlnet": randomize_zeros(FluxControlNetModel(**{**flux_sizes(), **changes}))}


@tiny("control", call=QWEN_CALL, conditions={"control_image": (16, 16)})
def qwen_controlnet() -> QwenImageControlNetPipeline:
    return QwenImageControlNetPipeline(**qwenimage().components, controlnet=qwen_controlnet_model())


@tiny("control", call=QWEN_CALL, conditions={"control_image": (16, 16), "control_mask": (16, 16)})
def qwen_controlnet_inpaint() -> QwenImageControlNetInpaintPipeline:
    controlnet = qwen_controlnet_model(extra_condition_channels=4)
    return QwenImageControlNetInpaintPipeline(**qwenimage().components, controlnet=controlnet)


def qwen_controlnet_model(**changes: Any) -> QwenImageControlNetModel:
    sizes: dict[str, Any] = {
        "in_channels": 16,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": (4, 4, 8),
    }
    return randomize_zeros(QwenImageControlNetModel(**{**sizes, **changes}))


SD3_CALL = {"height": 8, "width": 8, "guidance_scale": 3.0, "max_sequence_length": 16}


@tiny("control", call=SD3_CALL, conditions=CONTROL)
def sd3_controlnet() -> StableDiffusion3ControlNetPipeline:
    return StableDiffusion3ControlNetPipeline(**sd3_wide_parts(layers=2), controlnet=sd3_controlnet_model())


@tiny("control", call={**SD3_CALL, **FIRST_HALF}, conditions=CONTROL)
def sd3_controlnet_interval() -> StableDiffusion3ControlNetPipeline:
    return StableDiffusion3ControlNetPipeline(**sd3_wide_parts(layers=2), controlnet=sd3_controlnet_model())


@tiny("control", call=SD3_CALL, conditions={**CONTROL, "control_mask": (8, 8)})
def sd3_controlnet_inpaint() -> StableDiffusion3ControlNetInpaintingPipeline:
    controlnet = sd3_controlnet_model(extra_conditioning_channels=1)
    return StableDiffusion3ControlNetInpaintingPipeline(**sd3_wide_parts(layers=2), controlnet=controlnet)


def sd3_controlnet_model(**changes: Any) -> SD3ControlNetModel:
    return randomize_zeros(SD3ControlNetModel(**sd3_wide_sizes(), num_layers=1, **changes))


@tiny("control", call=SANA_CALL, conditions={"control_image": (32, 32)})
def sana_controlnet() -> SanaControlNetPipeline:
    controlnet = SanaControlNetModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=32,
    )
    return SanaControlNetPipeline(**sana_parts(num_layers=2), scheduler=sana_scheduler(), controlnet=randomize_zeros(controlnet))


@tiny(
    "control",
    call={"height": 16, "width": 16, "guidance_scale": 5.0, "negative_prompt": "blurry", "max_sequence_length": 16},
    conditions={"control_image": (16, 16)},
)
def cogview4_control() -> CogView4ControlPipeline:
    """Latents and control are 8 channels."""
    parts = cogview4().components
    transformer = CogView4Transformer2DModel.from_config(parts["transformer"].config, in_channels=8)
    return CogView4ControlPipeline(**{**parts, "transformer": transformer})


@tiny("control", call=Z_IMAGE_CALL, conditions=CONTROL)
def z_image_controlnet() -> ZImageControlNetPipeline:
    return ZImageControlNetPipeline(**z_image_parts(), controlnet=z_image_controlnet_model(4))


@tiny("control", call=Z_IMAGE_CALL, conditions={**CONTROL, **PICTURE_AND_MASK})
def z_image_controlnet_inpaint() -> ZImageControlNetInpaintPipeline:
    """Control, mask and masked picture are 9 channels."""
    return ZImageControlNetInpaintPipeline(**z_image_parts(), controlnet=z_image_controlnet_model(9))


def z_image_controlnet_model(channels: int) -> ZImageControlNetModel:
    return randomize_zeros(
        ZImageControlNetModel(
            control_layers_places=[0],
            control_refiner_layers_places=[0],
            control_in_dim=channels,
            add_control_noise_refiner="control_noise_refiner",
            dim=32,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
        )
    )
