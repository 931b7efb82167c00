"""Models of real sizes with random weights: nothing is downloaded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flowgrpo.config.run import Config
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies._hub import on_this_disk
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._index import index_of
from flowgrpo.policies.diffusers._policy import config_of
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.training.bench import real_folder
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
    if not isinstance(policy, DiffusersConfig | MaskedConfig) or type(policy) not in (DiffusersConfig, MaskedConfig):
        raise UserError(f"--random makes no policy '{policy.type}'; leave it out, so that the model is loaded")
    with torch.random.fork_rng(), device, _numbers_of(DTYPES[policy.dtype]):
        torch.manual_seed(config.seed)
        made = _pipeline(policy) if isinstance(policy, DiffusersConfig) else _language(policy, prompts)
    return config.model_copy(update={"policy": made})


def pipeline_class(policy: PolicyConfig, random: bool) -> str | None:
    """The name of the class of a pipeline, before it is made or loaded; None where nothing says so yet."""
    if not isinstance(policy, DiffusersConfig):
        return None
    if random and policy.model in PIPELINES:
        with torch.device("meta"):
            return type(PIPELINES[policy.model]()).__name__
    folder = on_this_disk(policy.model, policy.revision)
    return index_of(folder).get("_class_name") if folder else None


def _pipeline(policy: DiffusersConfig) -> DiffusersConfig:
    if (kind := policy.runtime.quantisation) != "none":
        raise UserError(f"--random makes weights of policy.dtype; set policy.runtime.quantisation '{kind}' to none")
    known = PIPELINES.get(policy.model)
    pipe = known() if known else real_folder.pipeline(_folder(policy.model, policy.revision, "model_index.json", PIPELINES))
    return config_of(pipe, policy.model_dump(exclude=LOADED))


def _language(policy: MaskedConfig, prompts: Sequence[Prompt]) -> MaskedConfig:
    if known := LANGUAGE.get(policy.model):
        both = known(prompt.text for prompt in prompts)
    else:
        _folder(policy.model, policy.revision, "config.json", LANGUAGE)
        both = real_folder.language_model(policy)
    return policy.model_copy(update={"model": hold(both, policy.model, lambda: "random")})


def _folder(model: str, revision: str | None, file: str, known: Iterable[str]) -> Path:
    """Where this file of a model's is."""
    folder = on_this_disk(model, revision)
    if folder is None or not (folder / file).is_file():
        raise UserError(
            f"--random knows the sizes of {', '.join(known)}; for another, policy.model must be a folder with a {file}, or a "
            f"model of the hub whose files are here (hf download MODEL --exclude '*.safetensors'), and '{model}' is neither"
        )
    return folder


@contextmanager
def _numbers_of(dtype: torch.dtype) -> Iterator[None]:
    """What is made inside is of this type, so that at no time there is a copy in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
