"""A pipeline's memory and speed: quantised weights, offload, VAE in pieces, attention backends."""

from collections.abc import Callable, Collection
from functools import cache
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers import BitsAndBytesConfig, DiffusionPipeline, PipelineQuantizationConfig, TorchAoConfig
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import BitsAndBytesConfig as EncoderBitsAndBytesConfig
from transformers import PreTrainedModel
from transformers import TorchAoConfig as EncoderTorchAoConfig

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies.diffusers import DENOISERS, DiffusersConfig

PACKAGES = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "int8_weight_only": "torchao", "float8_weight_only": "torchao"}
HALF_ONLY = ("flash", "sage", "aiter", "cudnn")
"""Attention kernels whose names hold one of these take no float32."""
TORCH_KERNELS = {
    "_native_math": SDPBackend.MATH,
    "_native_flash": SDPBackend.FLASH_ATTENTION,
    "_native_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "_native_cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""Those of torch's own attention, as diffusers' dispatcher names them."""
COMMON_HEAD = 64
"""Width of a head where a denoiser has layers of attention that do not say theirs."""


def quantised(config: DiffusersConfig, device: torch.device, source: str) -> dict[str, Any]:
    """What `from_pretrained(source, ...)` needs to store frozen weights in fewer bits; nothing where none are to be."""
    kind = config.runtime.quantisation
    if kind == "none":
        return {}
    if find_spec(PACKAGES[kind]) is None:
        raise UserError(
            f"policy.runtime.quantisation '{kind}' needs {PACKAGES[kind]}; install it with pip install 'flowgrpo[quantisation]'"
        )
    if PACKAGES[kind] == "bitsandbytes" and device.type == "cpu":
        raise UserError(f"policy.runtime.quantisation '{kind}' needs a GPU; on a CPU use int8_weight_only")
    components = DiffusionPipeline.load_config(source, revision=config.revision)
    mapping = {name: _storage(kind, config.dtype, encoder=False) for name in DENOISERS if name in components}
    if config.runtime.quantise_encoders:
        encoders = [name for name in components if name.startswith("text_encoder")]
        mapping |= {name: _storage(kind, config.dtype, encoder=True) for name in encoders}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def _storage(kind: str, dtype: str, encoder: bool) -> Any:
    """The library's config, of which diffusers and transformers have a class each."""
    if PACKAGES[kind] == "torchao":
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

        weights = Int8WeightOnlyConfig() if kind == "int8_weight_only" else Float8WeightOnlyConfig()
        return EncoderTorchAoConfig(weights) if encoder else TorchAoConfig(weights)
    make = EncoderBitsAndBytesConfig if encoder else BitsAndBytesConfig
    if kind == "int8":
        return make(load_in_8bit=True)
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[dtype],
    )


def apply(pipe: DiffusionPipeline, config: DiffusersConfig, device: torch.device, shared_out: bool = False) -> None:
    """Put a loaded pipeline on the device, with the choices in `config.runtime`; denoisers that are to be `shared_out` wait."""
    runtime = config.runtime
    if runtime.vae_slicing:
        _decode_in(pipe, "slicing")
    if runtime.vae_tiling:
        _decode_in(pipe, "tiling")
    for module in denoisers(pipe).values():
        if runtime.attention is not None:
            _attend(module, runtime.attention, config.dtype, device)
        if runtime.gradient_checkpointing:
            _checkpoint(module, int(runtime.gradient_checkpointing))
    staying = denoisers(pipe) if shared_out else {}
    if runtime.offload:
        offload(pipe, device, staying)
    elif staying:
        for name, module in pipe.components.items():
            if isinstance(module, nn.Module) and name not in staying:
                module.to(device)
    else:
        pipe.to(device)


def denoisers(pipe: DiffusionPipeline) -> dict[str, Any]:
    modules = {name: pipe.components[name] for name in DENOISERS if pipe.components.get(name) is not None}
    if not modules:
        raise UserError(f"{type(pipe).__name__} has no component named {' or '.join(DENOISERS)} to train")
    return modules


def decoders(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """What turns latents into pictures and back."""
    modules = {name: module for name, module in pipe.components.items() if isinstance(module, nn.Module)}
    return {name: module for name, module in modules.items() if "decode" in dir(module)}


def _decode_in(pipe: DiffusionPipeline, pieces: str) -> None:
    """`pieces` is slicing or tiling; a VAE that can do it has an attribute `use_slicing` or `use_tiling`."""
    able = [module for module in decoders(pipe).values() if f"use_{pieces}" in vars(module)]
    if not able:
        raise UserError(f"the VAE of {type(pipe).__name__} has no {pieces}; set policy.runtime.vae_{pieces} to false")
    for module in able:
        setattr(module, f"use_{pieces}", True)


def _attend(module: Any, backend: str, dtype: str, device: torch.device) -> None:
    """Through diffusers' dispatcher; where the layers call torch's attention themselves, its kernels can be chosen."""
    known = [name.value for name in AttentionBackendName]
    if backend not in known:
        raise UserError(f"policy.runtime.attention: diffusers has no backend '{backend}' ({nearest(backend, known)})")
    if dtype == "fp32" and any(name in backend for name in HALF_ONLY):
        raise UserError(f"policy.runtime.attention '{backend}' computes in 16 bits; set policy.dtype to bf16 or fp16")
    kernel = TORCH_KERNELS.get(backend)
    layers = [layer for layer in module.modules() if "processor" in dir(layer)]
    sizes = {layer.inner_dim // layer.heads for layer in layers if isinstance(layer, Attention)} or {COMMON_HEAD}
    if kernel is not None and (unfit := [size for size in sizes if not _runs(kernel, DTYPES[dtype], device, size)]):
        heads = f"heads of {unfit[0]} in {dtype} on this {device.type}"
        raise UserError(f"policy.runtime.attention: torch has no '{backend}' for {heads}; set it to null")
    calling_torch = [layer for layer in layers if _calls_torch(layer.processor)]
    if any("_attention_backend" in dir(layer.processor) for layer in layers):
        try:
            module.set_attention_backend(backend)
        except RuntimeError as error:
            raise UserError(f"policy.runtime.attention '{backend}': {' '.join(str(error).split())}") from error
    elif not calling_torch:
        raise UserError(f"{type(module).__name__} leaves no choice of attention; set policy.runtime.attention to null")
    elif kernel is None:
        raise UserError(
            f"policy.runtime.attention '{backend}': {type(module).__name__} calls torch's own attention, which has "
            f"{', '.join(TORCH_KERNELS)}; set it to one of these, or to null"
        )
    if kernel is not None:
        for layer in calling_torch:
            layer.forward = MethodType(_attending(kernel), layer)


@cache
def _attending(kernel: SDPBackend) -> Callable[..., Any]:
    """A forward for all layers, so that compiled blocks share their code. The kernel is chosen inside of a layer, which blocks
    that are computed again for a gradient go through as well."""

    def forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernel):
            return type(layer).forward(layer, *args, **kwargs)

    return forward


def _runs(kernel: SDPBackend, dtype: torch.dtype, device: torch.device, head: int) -> bool:
    q = torch.zeros(1, 1, 64, head, dtype=dtype, device=device)
    try:
        with sdpa_kernel(kernel):
            scaled_dot_product_attention(q, q, q)
    except RuntimeError:
        return False
    return True


def _calls_torch(processor: Any) -> bool:
    return scaled_dot_product_attention.__name__ in type(processor).__call__.__code__.co_names


def _checkpoint(module: Any, every: int) -> None:
    """Every n-th block, in the order in which they are first called."""
    numbers: dict[nn.Module, int] = {}

    def called(block: nn.Module, *arguments: Any) -> Any:
        if numbers.setdefault(block, len(numbers)) % every:
            return block(*arguments)
        return checkpoint(block, *arguments, use_reentrant=False)

    try:
        module.enable_gradient_checkpointing(called)
    except ValueError as error:
        name = type(module).__name__
        raise UserError(f"{name} can't recompute its layers; set policy.runtime.gradient_checkpointing to false") from error


def offload(pipe: DiffusionPipeline, device: torch.device, staying: Collection[str] = ()) -> None:
    """Encoders and VAE wait in main memory; everything else but for what is `staying` goes to the device."""
    guests = Guests(device)
    waiting = {**decoders(pipe), **{name: m for name, m in pipe.components.items() if isinstance(m, PreTrainedModel)}}
    for name, module in pipe.components.items():
        if name in waiting:
            add_hook_to_module(module, Guest(guests))
        elif isinstance(module, nn.Module) and name not in staying:
            module.to(device)
    for module in denoisers(pipe).values():
        module.register_forward_pre_hook(lambda *_: guests.leave())


class Guests:
    """At most one of the modules that wait is on the device: it comes when it runs, and leaves when another one or a denoiser
    does."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.inside: nn.Module | None = None

    def enter(self, module: nn.Module) -> None:
        if module is not self.inside:
            self.leave()
            module.to(self.device)
            self.inside = module

    def leave(self) -> None:
        if self.inside is not None:
            self.inside.to("cpu")
            self.inside = None


class Guest(ModelHook):
    """Pipelines read `execution_device`; diffusers calls `pre_forward` before a VAE encodes or decodes, too."""

    def __init__(self, guests: Guests) -> None:
        self.guests = guests
        self.execution_device = guests.device

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module.to("cpu")

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.guests.enter(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)
