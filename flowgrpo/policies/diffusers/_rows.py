"""What a pipeline makes of prompt rows, read off its folder: which pictures it takes, and where it cuts a text. Loads no weights.

A tokenizer cuts at the length of its encoder's table of positions; an encoder without one (T5, and language models with rotary
positions) at the call's `max_sequence_length`, or, where the call has none, at the tokenizer's own length; some pipelines have a
number in their code (`_table.CUTS`). What a pipeline puts around a prompt is not counted.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT, held
from flowgrpo.core.whole import read_json
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._fit import in_a_sentence
from flowgrpo.policies._hub import on_this_disk
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._conditions import Rows
from flowgrpo.policies.diffusers._index import index_of
from flowgrpo.policies.diffusers._table import CUTS, REFUSES_LONG

LENGTH = "max_sequence_length"
UNLIMITED = 10**6
"""Tokenizers without a length of their own say a larger number."""
Parameters = Mapping[str, inspect.Parameter]
Ids = Mapping[str, Sequence[Sequence[int]]]
"""Of each text, by the tokenizer's name."""


@dataclass(frozen=True)
class Encoders:
    """What takes prompts: the pipeline's class, its tokenizers, and the configs of their encoders, by the tokenizers' names."""

    pipeline: type
    tokenizers: Mapping[str, Any]
    geometries: Mapping[str, Mapping[str, Any]]


def check(config: DiffusersConfig, prompts: Sequence[Prompt]) -> list[str] | None:
    """As `PolicyConfig.check`."""
    if config.model.startswith(OBJECT):
        return _notes(_loaded(held(config.model)), config.call, prompts)
    folder = on_this_disk(config.model, config.revision)
    if folder is None or not (folder / "model_index.json").is_file():
        return None
    encoders = _on_disk(folder)
    return [] if encoders is None else _notes(encoders, config.call, prompts)


def _notes(encoders: Encoders, call: Mapping[str, Any], prompts: Sequence[Prompt]) -> list[str]:
    parameters = inspect.signature(encoders.pipeline.__call__).parameters
    rows = Rows(encoders.pipeline.__name__, parameters)
    rows.check(prompts)
    limits = dict(_limits(encoders, call, parameters))
    texts: dict[str, Sequence[str]] = {
        "prompts": [prompt.text for prompt in prompts] if rows.text else [],
        "negative prompts": rows.negative(prompts) or [],
    }
    ids = {kind: _ids(encoders, given) for kind, given in texts.items() if given}
    for kind, by_name in ids.items():
        _require_known(encoders, kind, by_name)
    notes = [_said(kind, limits, by_name) for kind, by_name in ids.items()]
    said = [sentence for sentence in notes if sentence]
    if said and rows.pipeline in REFUSES_LONG:
        raise UserError(f"{said[0]}, and {rows.pipeline} refuses them; shorten them, or raise policy.call.{LENGTH}")
    return [f"{sentence}; they are cut there" for sentence in said]


def _loaded(pipe: diffusers.DiffusionPipeline) -> Encoders:
    names = [name for name, component in pipe.components.items() if name.startswith("tokenizer") and component is not None]
    encoders = {name: pipe.components.get(_encoder(name)) for name in names}
    geometries = {name: encoder.config.to_dict() for name, encoder in encoders.items() if isinstance(encoder, PreTrainedModel)}
    return Encoders(type(pipe), {name: pipe.components[name] for name in names}, geometries)


def _on_disk(folder: Path) -> Encoders | None:
    """None for a pipeline whose class is not one of diffusers."""
    index = index_of(folder)
    if index["_class_name"] not in dir(diffusers):
        return None
    tokenizers, geometries = {}, {}
    for name, stated in index.items():
        if name.startswith("tokenizer") and stated[0] == "transformers" and (folder / name).is_dir():
            with in_a_sentence(str(folder / name)):
                tokenizers[name] = getattr(transformers, stated[1]).from_pretrained(str(folder / name))
            file = folder / _encoder(name) / "config.json"
            geometries[name] = read_json(file) if file.is_file() else {}
    return Encoders(getattr(diffusers, index["_class_name"]), tokenizers, geometries)


def _encoder(tokenizer: str) -> str:
    return tokenizer.replace("tokenizer", "text_encoder")


def _limits(encoders: Encoders, call: Mapping[str, Any], parameters: Parameters) -> Iterator[tuple[str, int]]:
    """Each tokenizer with the tokens at which it cuts."""
    known = dict(zip(("tokenizer", "tokenizer_2"), CUTS.get(encoders.pipeline.__name__, ()), strict=False))
    for name, component in encoders.tokenizers.items():
        tokenizer = _tokenizer(component)
        limit = known[name] if name in known else _limit(tokenizer, encoders.geometries.get(name, {}), call, parameters)
        if limit is not None:
            yield name, limit


def _require_known(encoders: Encoders, kind: str, ids: Ids) -> None:
    """A tokenizer may have more words than its encoder; texts whose ids are beyond its table are refused."""
    for name, rows in ids.items():
        geometry = encoders.geometries.get(name, {})
        size: int = (geometry.get("text_config") or geometry).get("vocab_size") or sys.maxsize
        for row, given in enumerate(rows):
            if max(given, default=0) >= size:
                raise UserError(
                    f"of {kind}, row {row + 1} has id {max(given)} of {name}, and {_encoder(name)} knows {size}: "
                    "one of the two is of another model"
                )


def _tokenizer(component: Any) -> PreTrainedTokenizerBase:
    return component.tokenizer if isinstance(component, ProcessorMixin) else component


def _limit(
    tokenizer: PreTrainedTokenizerBase, geometry: Mapping[str, Any], call: Mapping[str, Any], parameters: Parameters
) -> int | None:
    longest = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else None
    geometry = geometry.get("text_config") or geometry
    table = None if any(key.startswith("rope") for key in geometry) else geometry.get("max_position_embeddings")
    if table is not None:
        return min(longest or table, table)
    return call.get(LENGTH, parameters[LENGTH].default) if LENGTH in parameters else longest


def _ids(encoders: Encoders, texts: Sequence[str]) -> Ids:
    return {name: _tokenizer(part)([*texts], verbose=False)["input_ids"] for name, part in encoders.tokenizers.items()}


def _said(kind: str, limits: Mapping[str, int], ids: Ids) -> str:
    """How many texts of this kind are too long, and where; empty if none is."""
    cut = {
        f"{limit} tokens of {name}": {row: len(given) for row, given in enumerate(ids[name]) if len(given) > limit}
        for name, limit in limits.items()
    }
    rows = {row for lengths in cut.values() for row in lengths}
    if not rows:
        return ""
    tokens, longest = max((length, row) for lengths in cut.values() for row, length in lengths.items())
    where = ", ".join(f"{len(lengths)} beyond {limit}" for limit, lengths in cut.items() if lengths)
    return (
        f"{len(rows)} of {len(next(iter(ids.values())))} {kind} are too long for a text encoder: {where} "
        f"(the longest, row {longest + 1}, has {tokens})"
    )
