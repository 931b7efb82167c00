"""The policy over a masked-diffusion language model.

Shapes: B states; a state is [ROWS, P + L] (`sampling.canvas`), P prompt positions and L to fill.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Key
from flowgrpo.core.parts import copies
from flowgrpo.core.pretrained import require_all
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.policies._compiled import compiles, evaluate_as_in_an_update
from flowgrpo.policies._dtypes import DTYPES, unit_roundoff
from flowgrpo.policies._fill import fill
from flowgrpo.policies._fit import loading, pairs_of, peft_state, require_change
from flowgrpo.policies._offloaded import offload_activations
from flowgrpo.policies._pooled import LastBlock, narrowed, pooled
from flowgrpo.policies._sharded import Sharding
from flowgrpo.policies._weights import attach, saved, trainable
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked._adapter import Adapter, load_model, load_tokenizer, vocabulary_of
from flowgrpo.policies.masked._posing import Posing
from flowgrpo.policies.masked._tokens import Tokens
from flowgrpo.sampling.canvas import CONFIDENCE, TOKENS, answer_length, canvas
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw
from flowgrpo.sampling.likelihood import Likelihood

ADAPTER = "adapter_model.safetensors"


class MaskedSampler:
    """Answers prompts with the config's own `sampler`."""

    def __init__(
        self, config: MaskedConfig, device: torch.device, trained: Path | None = None, sharding: Sharding | None = None
    ) -> None:
        self.config, self.device, self.sharding = config, device, sharding
        self.tokenizer = load_tokenizer(config)
        self.tokens = Tokens(config, self.tokenizer)
        self.model = self._load(trained).to("cpu" if sharding else device).eval()
        self.vocabulary = vocabulary_of(config, self.tokenizer, self._size())
        self.adapter = Adapter(config, self.model, self.vocabulary)
        self.compiled = compiles("policy.compile", config.compile, "off", [self.model], device)

    def _load(self, trained: Path | None) -> Any:
        if trained is None or self.config.lora is None:
            return load_model(self.config, trained)
        model, file = load_model(self.config), trained / ADAPTER
        if not file.is_file():
            raise UserError(f"{trained}: no {ADAPTER} in it; if all weights were trained, set policy.lora to null")
        with loading(file):
            require_change(file, pairs_of(file, peft_state(load_file(file))))
            info = model.load_adapter(str(trained))
            require_all(file, info.missing_keys, info.unexpected_keys)
        return model

    @torch.no_grad()
    def _size(self) -> int:
        """V; and does the model have room for the canvas?"""
        needed, room = self.config.prompt_length + self.config.length, self.model.config.to_dict().get("max_position_embeddings")
        if room is not None and needed > room:
            raise UserError(
                f"model '{self.config.model}' has room for {room} ids, but policy.prompt_length + policy.length = {needed}"
            )
        output = self.model(torch.zeros(1, 1, dtype=torch.long, device=self.model.device))
        if "logits" not in output:
            raise UserError(f"model '{self.config.model}' gives no logits; it must be a language model with its head")
        return int(output.logits.shape[-1])

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], steps: int, latents: bool = False) -> Samples:
        if complaint := self.config.sampling_complaint(steps):
            raise UserError(complaint)

        def law(moves: Sequence[Move]) -> UnmaskingLaw:
            return UnmaskingLaw(tuple(moves), steps, self.config.length, self.vocabulary, self.device)

        states = fill(self.start(prompts, []), self.predict, law, self.config.sampler, prompts, seeds, steps)
        return self.decode(states, prompts)

    def start(self, prompts: Sequence[Prompt], keys: Sequence[Key]) -> Tensor:
        """All masked but for the beginning of an answer that is given; nothing is drawn."""
        begun = [self.tokens.begun(prompt, self.vocabulary) for prompt in prompts]
        masks = [self.vocabulary.mask] * self.config.length
        rows = [self.tokens.padded(prompt) + ids + masks[len(ids) :] for prompt, ids in zip(prompts, begun, strict=True)]
        states = canvas(torch.tensor(rows, device=self.device))
        for state, ids in zip(states, begun, strict=True):
            state[CONFIDENCE, self.config.prompt_length :][: len(ids)] = 1.0
        return states

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """Logits [B, L, V]."""
        return self.adapter.logits(states[:, TOKENS].long())

    def latents(self, states: Tensor, prompts: Sequence[Prompt], levels: Sequence[int]) -> None:
        return None

    def decode(self, states: Tensor, prompts: Sequence[Prompt]) -> Samples:
        tokens = states[:, TOKENS, -self.config.length :].long()
        lengths = answer_length(tokens, self.vocabulary.eos).tolist()
        answers = [row[:count] for row, count in zip(tokens.tolist(), lengths, strict=True)]
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
        return Samples([p.text for p in prompts], [p.metadata for p in prompts], [p.index for p in prompts], texts)


class MaskedPolicy(MaskedSampler):
    def __init__(self, config: MaskedConfig, device: torch.device, seed: int, sharding: Sharding | None = None) -> None:
        super().__init__(config, device, sharding=sharding)
        self.needs_loss_scaling = config.dtype == "fp16"
        self.unit_roundoff = unit_roundoff(DTYPES[config.dtype])
        self.weights = attach({"model": self.model}, config.lora, seed, sharding)
        if self.compiled:
            evaluate_as_in_an_update(self.model)
        if config.gradient_checkpointing:
            recompute_layers(self.model, config.model, int(config.gradient_checkpointing))
        if config.offload_activations:
            offload_activations(self.model)
        if sharding:
            sharding.lockstep.add(self.model)
        self.posing = self._posing(config.likelihood) if config.likelihood.states else None

    def law(self, moves: Sequence[Move], prompts: Sequence[Prompt]) -> UnmaskingLaw:
        return UnmaskingLaw(tuple(moves), self.config.steps, self.config.length, self.vocabulary, self.device)

    def answers(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        rows = [
            self.tokens.padded(p) + self.tokens.answer(p, text, self.vocabulary) for p, text in zip(prompts, texts, strict=True)
        ]
        return canvas(torch.tensor(rows, device=self.device))

    def posing_by(self, likelihood: Likelihood) -> Posing:
        if complaint := likelihood.complaint(self.config.length):
            raise UserError(complaint)
        return self._posing(likelihood)

    def _posing(self, likelihood: Likelihood) -> Posing:
        return Posing(likelihood, self.vocabulary, self.config.length, self.predict, self._given)

    def _given(self, prompt: Prompt) -> int:
        return len(self.tokens.begun(prompt, self.vocabulary))

    def require_watchable(self) -> None:
        self.last = LastBlock([self.model])

    @torch.no_grad()
    def watch(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> tuple[Tensor, Tensor]:
        logits, hidden = self.adapter.watched(states[:, TOKENS].long(), self.last)
        return logits, narrowed(pooled(hidden, len(hidden)))

    def trainable(self) -> dict[str, nn.Parameter]:
        return trainable({"model": self.model})

    def reference(self) -> AbstractContextManager[None]:
        return self.weights.reference()

    def export(self) -> Callable[[Path], None]:
        """What transformers loads: the model, or its adapter where only that is trained; and the tokenizer."""
        kept = self.sharding.gathered if self.sharding else copies
        return partial(self._write, kept(saved(self.model, self.config.lora is not None)))

    def _write(self, state: dict[str, Tensor], folder: Path) -> None:
        self.model.save_pretrained(str(folder), state_dict=state)
        self.tokenizer.save_pretrained(str(folder))


def recompute_layers(model: Any, name: str, every: int) -> None:
    """Every n-th. Layers of transformers recompute in training mode only; what is inside them stays in evaluation mode, without
    dropout."""
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"model '{name}' can't recompute its layers; set policy.gradient_checkpointing to false") from error
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers[::every]:
        layer.training = True
