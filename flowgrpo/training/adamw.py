"""AdamW, with moments of 32 bits or of 8 (arXiv 2110.02861, by torchao), and its state as plain tensors."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from flowgrpo.config.sections import OptimizerConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.parts import in_parts
from flowgrpo.policies._compiled import lacks

SIGNED = "exp_avg"
"""The moment that may be below 0; the other is of squares."""


def adamw(groups: Sequence[dict[str, Any]], config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """For groups of parameters. Errors: UserError where 8 bits are asked for and something that they need is missing."""
    settings: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay, "eps": config.eps}
    if config.bits == 32:
        return torch.optim.AdamW(groups, lr=config.lr, **settings)
    if find_spec("torchao") is None:
        raise UserError("optimizer.bits: 8 needs torchao; install it with pip install 'flowgrpo[quantisation]'")
    if missing := lacks(device):
        raise UserError(f"optimizer.bits: 8 compiles its step, which needs {missing}; set it to 32")
    from torchao.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=config.lr, **settings)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """A compiled step reads it from a tensor."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Moments `NAME|MOMENT`; those of 8 bits as what they consist of, `NAME|MOMENT.PART`."""
    return {name: value for key, moment in state.items() for name, value in _parts(key, moment)}


def _parts(key: str, moment: Tensor) -> Iterable[tuple[str, Tensor]]:
    if in_parts(moment) or not is_traceable_wrapper_subclass(moment):
        return [(key, moment)]
    names, _ = moment.__tensor_flatten__()
    return [(f"{key}.{name}", getattr(moment, name)) for name in names]


def moments(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `plain`."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        parameter, _, last = key.rpartition("|")
        moment, _, part = last.partition(".")
        if part:
            found.setdefault(f"{parameter}|{moment}", {})[part] = value
        else:
            found[key] = value
    return {key: _of_8_bits(key, value) if isinstance(value, dict) else value for key, value in found.items()}


def _of_8_bits(key: str, parts: Mapping[str, Tensor]) -> Tensor:
    from torchao.optim.subclass_8bit import OptimState8bit

    state: Tensor = OptimState8bit(**parts, signed=key.rpartition("|")[2] == SIGNED, dtype=torch.float32)
    return state
