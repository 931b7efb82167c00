"""Models at the sizes of their published configs, with random weights: nothing is downloaded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._policy import config_of
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.training.bench.real_language import dream
from flowgrpo.training.bench.real_pipelines import flux1_dev, sd35_medium, wan21_small

PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "stabilityai/stable-diffusion-3.5-medium": sd35_medium,
    "black-forest-labs/FLUX.1-dev": flux1_dev,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": wan21_small,
}
LANGUAGE: dict[str, Callable[[Iterable[str]], tuple[PreTrainedModel, PreTrainedTokenizerBase]]] = {
    "Dream-org/Dream-v0-Instruct-7B": dream,
    "apple/DiffuCoder-7B-Instruct": dream,
}
"""By the name on the hub. Those of language models make a tokenizer for the prompts' texts."""
LOADED = {"type", "model", "revision", "size", "dtype"}
"""Of a pipeline's section: what a loaded one says itself."""


def with_random_weights(config: Config, device: torch.device, prompts: Sequence[Prompt]) -> Config:
    """The config with a model of its model's size and random weights, made on the device.

    Errors: UserError where the size is not known.
    """
    policy = config.policy
    known = PIPELINES if isinstance(policy, DiffusersConfig) else LANGUAGE
    if not isinstance(policy, DiffusersConfig | MaskedConfig) or policy.model not in known:
        names = ", ".join([*PIPELINES, *LANGUAGE])
        raise UserError(f"--random knows the sizes of {names}; for another model leave it out, so that it is loaded")
    with torch.random.fork_rng(), device, _numbers_of(DTYPES[policy.dtype]):
        torch.manual_seed(config.seed)
        made = _pipeline(policy) if isinstance(policy, DiffusersConfig) else _language(policy, prompts)
    return config.model_copy(update={"policy": made})


def _pipeline(policy: DiffusersConfig) -> DiffusersConfig:
    return config_of(PIPELINES[policy.model](), policy.model_dump(exclude=LOADED))


def _language(policy: MaskedConfig, prompts: Sequence[Prompt]) -> MaskedConfig:
    both = LANGUAGE[policy.model](prompt.text for prompt in prompts)
    return policy.model_copy(update={"model": hold(both, policy.model, lambda: "random")})


@contextmanager
def _numbers_of(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside is of this type, so that at no time there is a copy in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
