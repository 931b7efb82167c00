"""The size of a pipeline folder, read off its headers and configs.

Denoisers are the components named so, the VAE is what is an autoencoder by its class, encoders are the other components.
"""

from math import ceil, prod
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import read_json
from flowgrpo.policies._memory import count_parameters
from flowgrpo.policies.diffusers import DENOISERS, DenoiserSize, EncoderSize, ModelSize, VaeSize
from flowgrpo.policies.diffusers._table import DECODERS

RESNET = 0.4
"""What a residual block of a UNet keeps, as a share of what a transformer block keeps."""
MOST_TEXT = 512
"""Tokens of a prompt, at most, where neither the call nor an encoder says less."""
WIDTH = ("hidden_size", "dim", "inner_dim", "model_dim")
DEPTH = ("num_hidden_layers", "num_layers", "n_layers", "depth", "num_visual_blocks")
JOINT = ("joint_attention_dim", "text_embed_dim", "cap_feat_dim")
"""Keys of denoisers whose blocks see text tokens beside image tokens."""

Call = dict[str, Any]
Geometry = dict[str, Any]
Grid = tuple[int, int, int]
"""Frames, down, across."""


def size_on_disk(folder: Path, call: Call) -> ModelSize:
    """For pictures and clips of the size in `call`."""
    classes = read_json(folder / "model_index.json")
    folders = {component.name: component for component in sorted(folder.iterdir()) if any(component.glob("*.safetensors"))}
    denoisers = [folders.pop(name) for name in DENOISERS if name in folders]
    if not denoisers:
        raise UserError(f"{folder} has no component named {' or '.join(DENOISERS)}")
    vaes = [folders.pop(name) for name in list(folders) if _decodes(classes[name][1])]
    vae = _config(vaes[0]) if vaes else {}
    encoders = _encoders(list(folders.values()), call)
    return ModelSize(
        denoiser=_denoiser(denoisers, vae, encoders.tokens, call),
        encoders=encoders,
        vae=_vae(vaes, vae, _config(denoisers[0]), call),
    )


def _config(folder: Path) -> Geometry:
    return read_json(folder / "config.json")


def _decodes(name: str) -> bool:
    return "Autoencoder" in name or name in DECODERS


def grid_on_disk(folder: Path, call: Call) -> tuple[Grid, Path]:
    """The grid of image tokens, and the folder of the denoiser."""
    classes = read_json(folder / "model_index.json")
    denoiser = next(folder / name for name in DENOISERS if (folder / name / "config.json").is_file())
    vaes = [file.name for file in sorted(folder.iterdir()) if file.name in classes and _decodes(classes[file.name][1] or "")]
    return _grid(_config(denoiser), _config(folder / vaes[0]) if vaes else {}, call), denoiser


def _denoiser(folders: list[Path], vae: Geometry, text: int, call: Call) -> DenoiserSize:
    config = _config(folders[0])
    layers, features = _blocks(config)
    joint = any(key in config for key in JOINT) and "caption_channels" not in config
    return DenoiserSize(
        parameters=count_parameters(folders[0]),
        layers=layers,
        width=features,
        tokens=prod(_grid(config, vae, call)) + (text if joint else 0),
        channels=prod(_patch(config, vae)) * _latent_channels(vae, config),
        count=len(folders),
        guided=not config.get("guidance_embeds"),
    )


def _blocks(config: Geometry) -> tuple[int, int]:
    """(blocks, width) of a transformer, a masked transformer or a UNet."""
    if isinstance(config.get("block_out_channels"), list):
        return _unet_blocks(config)
    if "num_attention_heads" in config and "attention_head_dim" in config:
        layers = config.get("num_layers", 1) + (config.get("num_single_layers") or 0)
        return layers, config["num_attention_heads"] * config["attention_head_dim"]
    width = next((config[key] for key in WIDTH if key in config), None)
    layers = next((config[key] for key in DEPTH if key in config), None)
    if width is None or layers is None:
        raise UserError(f"{config.get('_class_name')}: its width and depth can't be read off its config; give policy.size")
    return layers, width


def _unet_blocks(config: Geometry) -> tuple[int, int]:
    """As many transformer blocks of the first level's width and resolution as keep what the UNet keeps.

    Level i has a quarter of the pixels of level i - 1. Going down it has `layers_per_block` residual blocks, going up one more;
    those of a level with attention are followed by transformer blocks.
    """
    channels = config["block_out_channels"]
    levels = len(channels)
    per_block = _for_each(config.get("layers_per_block", 2), levels)
    transformers = _for_each(config.get("transformer_layers_per_block", 1), levels)
    attends = ["Attn" in kind for kind in config.get("down_block_types", ["CrossAttn"] * levels)]
    per_level = (
        (2 * n + 1) * (RESNET + t * a) * c / (channels[0] * 4**i)
        for i, (n, t, a, c) in enumerate(zip(per_block, transformers, attends, channels, strict=True))
    )
    return ceil(sum(per_level)), channels[0]


def _for_each(value: Any, levels: int) -> list[int]:
    return list(value) if isinstance(value, list) else [value] * levels


def _grid(config: Geometry, vae: Geometry, call: Call) -> Grid:
    """Image tokens; a call that gives no size has the denoiser's."""
    scale, side = _scale(vae), config.get("sample_size") or 64
    height, width = (call[key] // scale if key in call else side for key in ("height", "width"))
    frames = 1 + (call.get("num_frames", 1) - 1) // _time_scale(vae)
    one = _patch(config, vae)
    return max(1, frames // one[0]), max(1, height // one[1]), max(1, width // one[2])


def _scale(vae: Geometry) -> int:
    """Pixels along an edge of a latent pixel."""
    if "spatio_temporal_scaling" in vae:
        return vae["patch_size"] * 2 ** sum(vae["spatio_temporal_scaling"])
    known = [vae[key] for key in ("scale_factor_spatial", "spatial_compression_ratio") if vae.get(key)]
    return known[0] if known else 2 ** (len(_channels(vae)) - 1)


def _time_scale(vae: Geometry) -> int:
    if "spatio_temporal_scaling" in vae:
        return vae["patch_size_t"] * 2 ** sum(vae["spatio_temporal_scaling"])
    known = [vae[key] for key in ("scale_factor_temporal", "temporal_compression_ratio") if vae.get(key)]
    return known[0] if known else 2 ** sum(vae.get("temperal_downsample", []))


def _patch(config: Geometry, vae: Geometry) -> Grid:
    """Latent pixels in a token: the denoiser's patch, or what the pipeline packs into its channels before (FLUX)."""
    frames, down, across = patch(config)
    packed = config.get("in_channels", 0) == 4 * _latent_channels(vae, config)
    return (frames, 2, 2) if down * across == 1 and packed else (frames, down, across)


def patch(config: Geometry) -> Grid:
    """Of latent pixels that the denoiser itself makes a token of."""
    side = config.get("patch_size") or config.get("all_patch_size", [1])[0]
    if isinstance(side, list | tuple):
        frames, down, across = [1] * (3 - len(side)) + list(side)
        return frames, down, across
    return config.get("patch_size_t") or 1, side, side


def _latent_channels(vae: Geometry, config: Geometry) -> int:
    return next((vae[key] for key in ("latent_channels", "z_dim") if key in vae), config.get("in_channels") or 1)


def _channels(vae: Geometry) -> list[int]:
    """Of the decoder's levels, from full resolution down."""
    if "dim_mult" in vae:
        return [(vae.get("decoder_base_dim") or vae["base_dim"]) * factor for factor in vae["dim_mult"]]
    return next((vae[key] for key in ("decoder_block_out_channels", "block_out_channels") if vae.get(key)), [1])


def _vae(folders: list[Path], vae: Geometry, denoiser: Geometry, call: Call) -> VaeSize:
    """The last level begins with the channels of the one before. Wan's VAE and its kin decode a latent frame at a time
    and keep of each layer's input as much again; a VAE with patches ends at their resolution."""
    channels = _channels(vae)
    at_once = 2 * _time_scale(vae) + 1 if "dim_mult" in vae else call.get("num_frames", 1)
    patch = vae.get("patch_size")
    side = (denoiser.get("sample_size") or 64) * _scale(vae)
    return VaeSize(
        parameters=sum(count_parameters(folder) for folder in folders),
        width=max(1, channels[min(1, len(channels) - 1)] // (patch**2 if isinstance(patch, int) else 1)),
        frames=at_once,
        side=side,
    )


def _encoders(folders: list[Path], call: Call) -> EncoderSize:
    configs = [_config(folder) for folder in folders if (folder / "config.json").is_file()]
    texts = [config.get("text_config", config) for config in configs]
    widths = {i: config[key] for i, config in enumerate(texts) for key in ("d_model", "hidden_size") if config.get(key)}
    positions = [texts[i].get("max_position_embeddings", MOST_TEXT) for i in widths]
    return EncoderSize(
        parameters=sum(count_parameters(folder) for folder in folders),
        width=max(widths.values(), default=0),
        tokens=call.get("max_sequence_length") or min(MOST_TEXT, max(positions, default=0)),
    )
