"""Weights, and what a network says, must be numbers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flowgrpo.core.errors import NotFinite

STORED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def weights(modules: Mapping[str, Any], model: str) -> None:
    """Of what of these are modules. Errors: NotFinite that names the first tensor with NaN or infinity; quantised ones are passed
    over."""
    for what, module in modules.items():
        for name, value in module.named_parameters() if isinstance(module, nn.Module) else ():
            if value.dtype in STORED and not value.is_meta and not bool(torch.isfinite(value).all()):
                raise NotFinite(f"model '{model}': the weights '{name}' of its {what} hold NaN or infinity; get the model anew")


def numbers(prediction: Tensor, step: int) -> Tensor:
    """The prediction itself. Errors: NotFinite where it holds NaN or +infinity (-infinity forbids an id)."""
    if bool((torch.isnan(prediction) | (prediction == torch.inf)).any()):
        raise NotFinite(
            f"the network's prediction at step {step} is not a finite number; set policy.dtype to bf16 or fp32, take a lower "
            "optimizer.lr, or check the weights of policy.model"
        )
    return prediction


def pixels(decoded: Tensor) -> Tensor:
    """Decoded pixels themselves. Errors: NotFinite where they are none."""
    if not bool(torch.isfinite(decoded).all()):
        raise NotFinite(
            "decoded samples hold pixels that are not finite numbers; the decoder (vae) overflows in 16 bits, or its weights or "
            "those of the network are broken: set policy.dtype to bf16 or fp32, and check the weights of policy.model"
        )
    return decoded
