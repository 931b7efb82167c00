"""What a network says must be numbers."""

import torch
from torch import Tensor

from flowgrpo.core.errors import NotFinite


def numbers(prediction: Tensor, step: int) -> Tensor:
    """The prediction itself. Errors: NotFinite where it holds NaN or +infinity (-infinity forbids an id)."""
    if bool((torch.isnan(prediction) | (prediction == torch.inf)).any()):
        raise NotFinite(
            f"the network's prediction at step {step} is not a finite number; set policy.dtype to bf16 or fp32, take a lower "
            "optimizer.lr, or check the weights of policy.model"
        )
    return prediction


def pixels(made: Tensor) -> Tensor:
    """Decoded pixels themselves. Errors: NotFinite where they are none."""
    if not bool(torch.isfinite(made).all()):
        raise NotFinite(
            "decoded samples hold pixels that are not finite numbers; the decoder (vae) overflows in 16 bits, or its weights or "
            "those of the network are broken: set policy.dtype to bf16 or fp32, and check the weights of policy.model"
        )
    return made
