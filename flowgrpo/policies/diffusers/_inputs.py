"""What a denoiser is called with, of the right shapes, made from the names of its arguments and its config.

Shapes: B rows, T text tokens, a grid of F x H x W image tokens.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from flowgrpo.policies.diffusers._size import Grid, patch

TEXT_WIDTHS = ("joint_attention_dim", "text_dim", "text_embed_dim", "cap_feat_dim", "caption_channels", "cross_attention_dim")
PACKED = ("img_ids", "img_shapes", "num_frames")
"""Arguments of denoisers whose latents are a sequence of tokens already."""


def inputs(denoiser: nn.Module, rows: int, grid: Grid, text: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of its forward pass; latents and texts are of this type. Errors: KeyError for one that it needs and that is not
    known here."""
    config = denoiser.config
    names = {name: p.default is p.empty for name, p in inspect.signature(type(denoiser).forward).parameters.items()}
    del names["self"]
    known = _conditions(config, rows, grid, text, dtype)
    latents = next(name for name in ("x", "sample", "hidden_states") if name in names)
    known[latents] = _latents(config, names, rows, grid, dtype)
    if "cap_feats" in names:
        known["cap_feats"] = list(known["encoder_hidden_states"])
    return {name: known[name] for name, needed in names.items() if name in known or needed}


def _latents(config: Any, names: dict[str, bool], rows: int, grid: Grid, dtype: torch.dtype) -> Tensor | list[Tensor]:
    channels = config["in_channels"]
    if any(name in names for name in PACKED):
        return torch.randn(rows, grid[0] * grid[1] * grid[2], channels, dtype=dtype)
    frames, down, across = (n * p for n, p in zip(grid, patch(config), strict=True))
    if "x" in names:
        return [torch.randn(channels, frames, down, across, dtype=dtype) for _ in range(rows)]
    clip = isinstance(config.get("patch_size"), list | tuple) or "patch_size_t" in config
    return torch.randn(rows, channels, *((frames,) if clip else ()), down, across, dtype=dtype)


def _conditions(config: Any, rows: int, grid: Grid, text: int, dtype: torch.dtype) -> dict[str, Any]:
    width = next((config[key] for key in TEXT_WIDTHS if config.get(key)), None)
    axes = len(config.get("axes_dims_rope", (0, 0, 0)))
    conditions: dict[str, Any] = {
        "timestep": torch.ones(rows),
        "t": torch.ones(rows),
        "encoder_attention_mask": torch.ones(rows, text),
        "pooled_projections": torch.randn(rows, config.get("pooled_projection_dim", 1), dtype=dtype),
        "img_ids": torch.zeros(grid[0] * grid[1] * grid[2], axes),
        "txt_ids": torch.zeros(text, axes),
        "img_shapes": [[grid]] * rows,
        **dict(zip(("num_frames", "height", "width"), grid, strict=True)),
    }
    if width:
        conditions["encoder_hidden_states"] = torch.randn(rows, text, width, dtype=dtype)
    if config.get("guidance_embeds"):
        conditions["guidance"] = torch.ones(rows)
    if config.get("addition_embed_type") == "text_time":
        times = 6
        pooled = config["projection_class_embeddings_input_dim"] - times * config["addition_time_embed_dim"]
        conditions["added_cond_kwargs"] = {
            "text_embeds": torch.randn(rows, pooled, dtype=dtype),
            "time_ids": torch.ones(rows, times),
        }
    elif config.get("caption_channels"):
        conditions["added_cond_kwargs"] = {"resolution": torch.ones(rows, 2), "aspect_ratio": torch.ones(rows, 1)}
    return conditions
