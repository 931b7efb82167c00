"""The policy over a diffusers pipeline."""

import inspect
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from flowgrpo.errors import UserError
from flowgrpo.paths import ASSET, locate
from flowgrpo.policies._weights import attach, trainable
from flowgrpo.policies.diffusers import DENOISERS, DiffusersConfig
from flowgrpo.policies.diffusers._memo import memoise_prompts
from flowgrpo.policies.diffusers._schedule import read_schedule, with_one_step_scheduler
from flowgrpo.policies.diffusers._tap import Tap
from flowgrpo.prompts import Prompt
from flowgrpo.samples import Samples
from flowgrpo.sampling.gaussian import GaussianLaw
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.keys import Key, torch_generator
from flowgrpo.sampling.levels import Schedule

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RATIO_TOLERANCE = {"fp32": 1e-6, "bf16": 1e-4, "fp16": 1e-5}


def load_pipeline(model: str, revision: str | None, dtype: str) -> DiffusionPipeline:
    """A pipeline folder, `asset:NAME` or a hub id; safetensors only, no remote code."""
    path = locate(model)
    if model.startswith((ASSET, ".", "/", "~")) and not (path / "model_index.json").is_file():
        raise UserError(f"model '{model}': {path} is not a diffusers pipeline folder (no model_index.json)")
    source = str(path) if path.exists() else model
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    try:
        pipe = DiffusionPipeline.from_pretrained(
            source, revision=revision, dtype=DTYPES[dtype], use_safetensors=True, **_absent(path)
        )
    except OSError as error:
        raise UserError(f"model '{model}' can't be loaded: {str(error).splitlines()[0]}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _absent(folder: Path) -> dict[str, None]:
    """Components that the folder lists as null; diffusers wants to be told of those that its class does not call optional."""
    index = folder / "model_index.json"
    entries = json.loads(index.read_text()) if index.is_file() else {}
    return {name: None for name, value in entries.items() if value == [None, None]}


def denoisers(pipe: DiffusionPipeline) -> dict[str, Any]:
    found = {name: pipe.components[name] for name in DENOISERS if pipe.components.get(name) is not None}
    if not found:
        raise UserError(f"{type(pipe).__name__} has no component named {' or '.join(DENOISERS)} to train")
    return found


class PipelineSampler:
    """A pipeline as its users meet it: its own call, its own sampler."""

    def __init__(self, config: DiffusersConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.pipe = load_pipeline(config.model, config.revision, config.dtype).to(device)
        if config.spacing == "uniform" and "sigmas" not in inspect.signature(type(self.pipe).__call__).parameters:
            raise UserError(f"{type(self.pipe).__name__} takes no sigmas, so policy.spacing must be 'pipeline'")

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int) -> Samples:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        arguments = {**self._arguments(prompts, generators, steps), "output_type": "pt"}
        with self._autocast():
            return samples_of(self.pipe(**arguments)[0], prompts)

    def load(self, folder: Path) -> None:
        """What a run has trained: an adapter, or all weights of the denoisers."""
        if self.config.lora is not None:
            self.load_lora(folder)
            return
        for name, module in denoisers(self.pipe).items():
            if not (folder / name).is_dir():
                raise UserError(f"{folder}: no folder '{name}' with all weights in it; if a LoRA was trained, set policy.lora")
            setattr(self.pipe, name, type(module).from_pretrained(str(folder / name), use_safetensors=True).to(self.device))

    def load_lora(self, folder: Path) -> None:
        if not (folder / "pytorch_lora_weights.safetensors").is_file():
            raise UserError(f"{folder}: no pytorch_lora_weights.safetensors in it")
        self.pipe.load_lora_weights(str(folder))

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES[self.config.dtype]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _arguments(self, prompts: Sequence[Prompt], generator: Any, steps: int | None = None) -> dict[str, Any]:
        """Of the pipeline's call, with as many steps as a rollout has when it does not matter otherwise."""
        steps = steps or self.config.steps
        uniform = {"sigmas": [1.0 - i / steps for i in range(steps)]} if self.config.spacing == "uniform" else {}
        texts = [prompt.text for prompt in prompts]
        return {**self.config.call, **uniform, "num_inference_steps": steps, "prompt": texts, "generator": generator}


class DiffusersPolicy(PipelineSampler):
    """Shapes: B states; latents [B, ...] as the pipeline keeps them, float32."""

    def __init__(self, config: DiffusersConfig, device: torch.device, seed: int) -> None:
        super().__init__(config, device)
        self.needs_loss_scaling = config.dtype == "fp16"
        self.ratio_tolerance = RATIO_TOLERANCE[config.dtype]
        with_one_step_scheduler(self.pipe)
        for module in self.pipe.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()
        self.modules = denoisers(self.pipe)
        if config.gradient_checkpointing:
            for module in self.modules.values():
                module.enable_gradient_checkpointing()
        self.weights = attach(self.modules, config.lora, seed)
        memoise_prompts(self.pipe)
        self.tap = Tap(self.pipe)

    @cached_property
    def schedule(self) -> Schedule:
        self.start([Prompt(0, "")], [("schedule",)])
        return read_schedule(self.pipe.scheduler)

    @torch.no_grad()
    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        generators = [torch_generator(key) for key in keys]
        return self.tap.begin(**self._arguments(prompts, generators)).float()

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        with self._autocast():
            return self.tap.predict(states, step, **self._arguments(prompts, torch.Generator()))

    @property
    def posing(self) -> None:
        return None

    def law(self, moves: Sequence[Move]) -> GaussianLaw:
        return GaussianLaw.of(moves, self.schedule, self.device)

    @torch.no_grad()
    def decode(self, states: Tensor, prompts: Sequence[Prompt]) -> Samples:
        arguments = {**self._arguments(prompts, torch.Generator()), "output_type": "pt"}
        with self._autocast():
            return samples_of(self.tap.finish(states, **arguments)[0], prompts)

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable(self.modules)

    def reference(self) -> AbstractContextManager[None]:
        return self.weights.reference()

    def export(self, folder: Path) -> None:
        if self.config.lora is None:
            for name, module in self.modules.items():
                module.save_pretrained(str(folder / name))
            return
        scale = self.config.lora.alpha / self.config.lora.rank
        layers = {f"{name}_lora_layers": _scaled(get_peft_model_state_dict(m), scale) for name, m in self.modules.items()}
        self.pipe.save_lora_weights(str(folder), **layers)


def _scaled(layers: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Adapters whose product is taken as it is: that is how a pipeline loads a file that states no alpha."""
    return {key: value * scale if ".lora_B." in key else value for key, value in layers.items()}


def samples_of(images: Tensor, prompts: Sequence[Prompt]) -> Samples:
    texts, rows, groups = zip(*((p.text, p.metadata, p.index) for p in prompts), strict=True)
    return Samples(list(texts), list(rows), list(groups), images.float().cpu())
