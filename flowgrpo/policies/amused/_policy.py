"""The policy over aMUSEd: the tap of continuous pipelines, with ids for latents.

Shapes: B states; a state is [ROWS, L] (`sampling.canvas`, without a prompt), L = h x w image ids; V ids of the codebook.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgrpo.errors import UserError
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler, samples_of
from flowgrpo.prompts import Prompt
from flowgrpo.samples import Samples
from flowgrpo.sampling.canvas import TOKENS, Vocabulary, canvas
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.keys import Key
from flowgrpo.sampling.unmasking import UnmaskingLaw


class AmusedSampler(PipelineSampler):
    """The pipeline's scheduler draws from one generator a call, so each sample is a call of its own."""

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int) -> Samples:
        return Samples.concatenate(
            [super(AmusedSampler, self).generate([p], [seed], steps) for p, seed in zip(prompts, seeds, strict=True)]
        )

    def _arguments(self, prompts: Sequence[Prompt], generator: Any, steps: int | None = None) -> dict[str, Any]:
        found = super()._arguments(prompts, generator, steps)
        return {**found, "generator": generator[0] if isinstance(generator, list) else generator}

    def load_lora(self, folder: Path) -> None:
        if not (folder / "pytorch_lora_weights.safetensors").is_file():
            raise UserError(f"{folder}: no pytorch_lora_weights.safetensors in it")
        name = "pytorch_lora_weights.safetensors"
        self.pipe.transformer.load_lora_adapter(str(folder), prefix=None, weight_name=name, use_safetensors=True)


class AmusedPolicy(AmusedSampler, DiffusersPolicy):
    config: AmusedConfig

    def __init__(self, config: AmusedConfig, device: torch.device, seed: int) -> None:
        super().__init__(config, device, seed)
        geometry = self.pipe.transformer.config
        self.vocabulary = Vocabulary(geometry.codebook_size, self.pipe.scheduler.config.mask_token_id, pad=-1)
        self.height, self.width = self._size()
        if self.height * self.width != config.length:
            raise UserError(f"policy.length = {config.length}, but these pictures have {self.height} x {self.width} ids")

    def _size(self) -> tuple[int, int]:
        scale, side = self.pipe.vae_scale_factor, self.pipe.transformer.config.sample_size
        height, width = (self.config.call.get(key, side * scale) // scale for key in ("height", "width"))
        return height, width

    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        """All masked; nothing is drawn."""
        return canvas(torch.full((len(prompts), self.config.length), self.vocabulary.mask, device=self.device))

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """Logits [B, L, V]."""
        ids = self._ids(states)
        with self._autocast():
            arguments = self._arguments(prompts, torch.Generator())
            return self.tap.predict(ids, step, **arguments, latents=ids).flatten(2).transpose(1, 2).float()

    def law(self, moves: Sequence[Move]) -> UnmaskingLaw:  # type: ignore[override]
        return UnmaskingLaw(tuple(moves), self.config.steps, self.config.length, self.vocabulary, self.device)

    @torch.no_grad()
    def decode(self, states: Tensor, prompts: Sequence[Prompt]) -> Samples:
        ids = self._ids(states)
        arguments = {**self._arguments(prompts, torch.Generator()), "output_type": "pt", "latents": ids}
        with self._autocast():
            return samples_of(self.tap.finish(ids, **arguments)[0], prompts)

    def _ids(self, states: Tensor) -> Tensor:
        return states[:, TOKENS].long().view(-1, self.height, self.width)

    def export(self, folder: Path) -> None:
        if self.config.lora is None:
            self.pipe.transformer.save_pretrained(str(folder / "transformer"))
            return
        self.pipe.transformer.save_lora_adapter(str(folder))
