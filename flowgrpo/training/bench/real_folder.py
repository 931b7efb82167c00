"""Models of the size that their config files on this disk say, with random weights.

The caller says on which device and in which type.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flowgrpo.policies._fit import bars_on_a_terminal_only, in_a_sentence
from flowgrpo.policies.diffusers._index import absent, index_of
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked._adapter import load_tokenizer, unloaded

LIBRARIES: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}


def pipeline(folder: Path) -> DiffusionPipeline:
    """Its tokenizers and its scheduler are loaded. Errors: UserError."""
    bars_on_a_terminal_only()
    with in_a_sentence(str(folder)):
        index = index_of(folder)
        networks = {name: network for name, kind in index.items() if (network := _network(folder / name, kind))}
        made = getattr(diffusers, index["_class_name"])
        return made.from_pretrained(folder, use_safetensors=True, **networks, **absent(folder))


def _network(folder: Path, kind: Any) -> Any:
    """Of a component that has weights; None of another."""
    match kind:
        case [str(library), str(name)] if library in LIBRARIES:
            made: Any = getattr(LIBRARIES[library], name, object)
        case _:
            return None
    if issubclass(made, ModelMixin):
        return made.from_config(made.load_config(folder))
    if issubclass(made, PreTrainedModel):
        return made._from_config(made.config_class.from_pretrained(folder), dtype=torch.get_default_dtype())
    return None


def language_model(config: MaskedConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """And its tokenizer. Errors: UserError."""
    with in_a_sentence(f"model '{config.model}'"):
        return unloaded(config), load_tokenizer(config)
