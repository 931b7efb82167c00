"""The policy over aMUSEd: the tap of continuous pipelines, with ids for latents.

Shapes: B states; a state is [ROWS, L] (`sampling.canvas`, without a prompt), L = h x w image ids; V ids of the codebook.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.policies._fit import loading, require_lora
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.diffusers import _adapters as adapters
from flowgrpo.policies.diffusers._conditions import NEGATIVE
from flowgrpo.policies.diffusers._policy import DiffusersPolicy, PipelineSampler, pixels_of, samples_of
from flowgrpo.policies.diffusers._tap import StepCall, Stop, Tap, unchanged
from flowgrpo.sampling.canvas import TOKENS, Vocabulary, canvas
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw


class AmusedSampler(PipelineSampler):
    """The pipeline's own sampler. Its scheduler draws from one generator a call, so each of its samples is a call of its own."""

    config: AmusedConfig

    def __init__(self, config: AmusedConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.tap = Tap(self.pipe)
        self._prepare(config)

    def _prepare(self, config: AmusedConfig) -> None:
        geometry = self.pipe.transformer.config
        self.vocabulary = Vocabulary(geometry.codebook_size, self.pipe.scheduler.config.mask_token_id, pad=-1)
        self.height, self.width = self._size()
        if self.height * self.width != config.length:
            raise UserError(f"policy.length = {config.length}, but these pictures have {self.height} x {self.width} ids")

    def _size(self) -> tuple[int, int]:
        scale, side = self.pipe.vae_scale_factor, self.pipe.transformer.config.sample_size
        height, width = (self.config.call.get(key, side * scale) // scale for key in ("height", "width"))
        return height, width

    def load_lora(self, folder: Path) -> None:
        file, transformer = folder / adapters.FILE, self.pipe.transformer
        if not file.is_file():
            super().load_lora(folder)
            return
        with loading(file):
            require_lora(file, load_file(file), transformer)
            transformer.load_lora_adapter(str(folder), prefix=None, weight_name=file.name, use_safetensors=True)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int, latents: bool = False) -> Samples:
        calls = zip(prompts, seeds, strict=True)
        return Samples.concatenate([super(AmusedSampler, self).generate([p], [seed], steps) for p, seed in calls])

    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        """All masked; nothing is drawn."""
        return canvas(torch.full((len(prompts), self.config.length), self.vocabulary.mask, device=self.device))

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """Logits [B, L, V]."""
        return self._logits(self._ids(states), step, self._arguments(prompts, torch.Generator()))

    def halves(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """[B, 2, L, V]: logits with the prompt and without it, to be guided later."""
        default = self.config.call.get(NEGATIVE) or ""
        unwanted = self.rows.negative(prompts, default) or [default] * len(prompts)
        blank = [Prompt(p.index, text) for p, text in zip(prompts, unwanted, strict=True)]
        arguments = {**self._arguments([*prompts, *blank], torch.Generator()), "guidance_scale": 1.0}
        return torch.stack(self._logits(self._ids(states).repeat(2, 1, 1), step, arguments).chunk(2), dim=1)

    def _ids(self, states: Tensor) -> Tensor:
        return states[:, TOKENS].long().view(-1, self.height, self.width)

    def _logits(self, ids: Tensor, step: int, arguments: dict[str, Any]) -> Tensor:
        seen: list[StepCall] = []

        def take(call: StepCall) -> Tensor:
            seen.append(call)
            raise Stop

        with self._autocast():
            self.tap.run({**arguments, "latents": ids}, lambda _: iter([step]), unchanged, take)
        return seen[0].model_output.flatten(2).transpose(1, 2).float()

    def unmasking(self, moves: Sequence[Move]) -> UnmaskingLaw:
        return UnmaskingLaw(tuple(moves), self.config.steps, self.config.length, self.vocabulary, self.device)

    @torch.no_grad()
    def decode(self, states: Tensor, prompts: Sequence[Prompt]) -> Samples:
        arguments = {**self._arguments(prompts, torch.Generator()), "output_type": "pt", "latents": self._ids(states)}
        with self._autocast():
            output = self.tap.run(arguments, lambda _: iter(()), unchanged, lambda call: call.sample)
        return samples_of(pixels_of(output[0]), prompts)

    def _arguments(self, prompts: Sequence[Prompt], generator: Any, steps: int | None = None) -> dict[str, Any]:
        arguments = super()._arguments(prompts, generator, steps)
        return {**arguments, "generator": generator[0] if isinstance(generator, list) else generator}


class AmusedPolicy(AmusedSampler, DiffusersPolicy):
    def __init__(self, config: AmusedConfig, device: torch.device, seed: int) -> None:
        DiffusersPolicy.__init__(self, config, device, seed)
        self.tap = Tap(self.pipe)
        self._prepare(config)

    def law(self, moves: Sequence[Move], prompts: Sequence[Prompt]) -> UnmaskingLaw:  # type: ignore[override]
        return self.unmasking(moves)

    def _write(self, states: Mapping[str, dict[str, Tensor]], folder: Path) -> None:
        if self.config.lora is None:
            super()._write(states, folder)
        else:
            adapters.save_layers(self.pipe.transformer, states["transformer"], folder)
