"""Flow-GRPO's published loop, as a baseline: its algorithm as a plain diffusers loop over Stable Diffusion 3."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._policy import DiffusersPolicy

PIPELINE = "StableDiffusion3Pipeline"
GUIDANCE_SCALE = 7.0
"""The default of the pipeline's call."""
KNOWN = {"height", "width", "guidance_scale", "max_sequence_length", "negative_prompt"}


def require_known(policy: PolicyConfig, kind: str | None) -> None:
    """`kind` is the pipeline's class, where that is known already. Errors: UserError for what the loop is not for."""
    if not isinstance(policy, DiffusersConfig):
        raise UserError("--baseline is a loop for Stable Diffusion 3; leave it out")
    if kind not in (None, PIPELINE):
        raise UserError(f"--baseline is a loop for {PIPELINE}, and this is a {kind}; leave it out")
    if unknown := sorted(policy.call.keys() - KNOWN):
        raise UserError(f"--baseline knows no policy.call.{unknown[0]}; take it away, or leave --baseline out")


class PublishedLoop(DiffusersPolicy):
    """Evaluates the denoiser as the loop of Flow-GRPO (arXiv 2505.05470) does: prompts are encoded once, a guided step is one
    forward pass of twice the batch with a graph through both halves, the reference is a pass of its own, nothing is compiled,
    attention is as torch chooses, and 16 bits are by autocast.

    What it is asked for comes from the same trainer. Errors: UserError for another pipeline, or other arguments of its call.
    """

    def __init__(self, config: DiffusersConfig, device: torch.device, seed: int) -> None:
        plain = config.runtime.model_copy(update={"compile": "off", "attention": None})
        super().__init__(config.model_copy(update={"runtime": plain, "guidance_gradient": "full"}), device, seed)
        require_known(config, type(self.pipe).__name__)
        self.guidance_scale = float(config.call.get("guidance_scale", GUIDANCE_SCALE))
        self.encoded: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    @cached_property
    def timesteps(self) -> Tensor:
        """[S]"""
        steps, scheduler = self.config.steps, self.pipe.scheduler
        if self.config.spacing == "uniform":
            scheduler.set_timesteps(sigmas=[1.0 - i / steps for i in range(steps)], device=self.device)
        else:
            scheduler.set_timesteps(steps, device=self.device)
        return torch.as_tensor(scheduler.timesteps)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES[self.config.dtype]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        with self._autocast():
            embeddings, pooled = self._encoded(prompts)
            guided = self.guidance_scale > 1.0
            rows = torch.cat([states, states] if guided else [states]).to(embeddings.dtype)
            (velocity,) = self.pipe.transformer(
                hidden_states=rows,
                timestep=self.timesteps[step].expand(len(rows)),
                encoder_hidden_states=embeddings,
                pooled_projections=pooled,
                return_dict=False,
            )
            if guided:
                without, with_prompt = velocity.chunk(2)
                velocity = without + self.guidance_scale * (with_prompt - without)
        return torch.as_tensor(velocity).float()

    @torch.no_grad()
    def _encoded(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Embeddings of the rows of a forward pass, those without the prompt first."""
        default = self.config.call.get("negative_prompt") or ""
        texts, unwanted = [p.text for p in prompts], self.rows.negative(prompts, default) or [default] * len(prompts)
        key = (*texts, *unwanted)
        if key not in self.encoded:
            guided = self.guidance_scale > 1.0
            lengths = {name: value for name, value in self.config.call.items() if name == "max_sequence_length"}
            embeddings, negative, pooled, negative_pooled = self.pipe.encode_prompt(
                prompt=texts,
                prompt_2=None,
                prompt_3=None,
                negative_prompt=unwanted,
                do_classifier_free_guidance=guided,
                device=self.device,
                **lengths,
            )
            self.encoded[key] = (
                torch.cat([negative, embeddings]) if guided else embeddings,
                torch.cat([negative_pooled, pooled]) if guided else pooled,
            )
        return self.encoded[key]
