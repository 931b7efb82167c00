"""Trained weights against the model that they are for: all of them fit, nothing is missing, and they change something.

A LoRA has layers; each has A [rank, in] and B [out, rank], named as peft names them, `LAYER.lora_A.weight`.
"""

import logging
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import diffusers
import transformers
import yaml
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from flowgrpo.core.errors import UserError

TENSOR = re.compile(r"(?P<layer>.+)\.lora_(?:embedding_)?(?P<half>[AB])(?:\.weight)?")
HALVES = {"A": "B", "B": "A"}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
Pairs = Mapping[str, Mapping[str, Tensor]]
"""A and B by layer."""


def require_lora(where: Path, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Refuse, in one sentence, a LoRA that is not whole, is for another model than `module`, or does nothing.

    Which layers it must have is what its folder says (`stated_layers`).
    """
    pairs = pairs_of(where, state)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS)}
    if strange := sorted(pairs.keys() - layers):
        raise UserError(
            f"{where}: {len(strange)} of its {len(pairs)} layers are not in {type(module).__name__}, such as '{strange[0]}': "
            "it is for another model, or its names have another prefix"
        )
    if missing := sorted(stated_layers(where.parent, pairs, layers) - pairs.keys()):
        raise UserError(
            f"{where} has {len(pairs)} layers and lacks {len(missing)}, such as '{missing[0]}': it is not whole; if it is "
            "meant so, list its layers as target_modules in an adapter_config.json beside it"
        )
    for name, pair in pairs.items():
        _require_shapes(where, name, pair, layers[name])
    require_change(where, pairs)


def pairs_of(where: Path, state: Mapping[str, Tensor]) -> Pairs:
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if not (match := TENSOR.fullmatch(key)):
            raise UserError(f"{where}: '{key}' is no part of a LoRA (LAYER.lora_A.weight, LAYER.lora_B.weight)")
        pairs.setdefault(match["layer"], {})[match["half"]] = tensor
    if not pairs:
        raise UserError(f"{where} holds no layers of this model's")
    if halves := [(name, half) for name, pair in pairs.items() for half in pair if len(pair) == 1]:
        name, half = halves[0]
        raise UserError(
            f"{where}: '{name}' has lora_{half} without lora_{HALVES[half]} ({len(halves)} such layers): it is not whole"
        )
    return pairs


def require_change(where: Path, pairs: Pairs) -> None:
    """At least one layer's product A B is not 0, and every number is finite."""
    if broken := [name for name, pair in pairs.items() for half in pair.values() if not half.isfinite().all()]:
        raise UserError(f"{where}: the weights of '{broken[0]}' are not finite; training has diverged, use an earlier checkpoint")
    if not any(pair["A"].any() and pair["B"].any() for pair in pairs.values()):
        raise UserError(f"{where}: every product A B is 0, so the adapter changes nothing; was it trained?")


def _require_shapes(where: Path, name: str, pair: Mapping[str, Tensor], layer: nn.Module) -> None:
    """Of what a layer says of itself: quantised weights have another shape."""
    a, b = pair["A"].shape, pair["B"].shape
    sizes = {"in_features": "out_features", "in_channels": "out_channels", "num_embeddings": "embedding_dim"}
    known = [(vars(layer)[into], vars(layer)[out]) for into, out in sizes.items() if into in vars(layer)]
    if (a[1], b[0]) not in known or a[0] != b[1]:
        raise UserError(
            f"{where}: '{name}' has A {list(a)} and B {list(b)}, and the model's layer maps {known[0][0]} to {known[0][1]}: "
            "it is for another model"
        )


def stated_layers(folder: Path, pairs: Collection[str], layers: Collection[str]) -> set[str]:
    """The layers that a LoRA in this folder should have: those that its adapter_config.json or its run's config.yaml targets.

    Where neither is there: all that have the names of those it has, but for the numbers of blocks.
    """
    if (folder / "adapter_config.json").is_file():
        config = LoraConfig.from_pretrained(str(folder))
        return {name for name in layers if config.target_modules != "all-linear" and check_target_module_exists(config, name)}
    for file in (folder / "config.yaml", folder.parent / "config.yaml"):
        if file.is_file() and (lora := yaml.safe_load(file.read_text(encoding="utf-8"))["policy"].get("lora")):
            targets = tuple(lora["targets"])
            return {name for name in layers if name in targets or name.endswith(tuple(f".{target}" for target in targets))}
    kinds = {re.sub(r"\d+", "#", name) for name in pairs}
    return {name for name in layers if re.sub(r"\d+", "#", name) in kinds}


@contextmanager
def only_errors() -> Iterator[None]:
    """Libraries say nothing inside: what they would warn of is checked, or is no fault of this file."""
    before = [library.utils.logging.get_verbosity() for library in (diffusers, transformers)]
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in zip((diffusers, transformers), before, strict=True):
            library.utils.logging.set_verbosity(level)


def bars_on_a_terminal_only() -> None:
    """Of what the libraries load."""
    if not sys.stderr.isatty():
        for library in (diffusers, transformers):
            library.utils.logging.disable_progress_bar()


@contextmanager
def loading(where: Path) -> Iterator[None]:
    """Whatever goes wrong inside is wrong with the file, and libraries say nothing."""
    with in_a_sentence(str(where)), only_errors():
        yield


@contextmanager
def in_a_sentence(where: str) -> Iterator[None]:
    """Whatever goes wrong inside is wrong with what is loaded from there."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where} can't be loaded ({type(error).__name__}: {reason[:300]})") from error


def count_lora(modules: Collection[nn.Module]) -> int:
    """How many tensors of adapters these modules have."""
    return sum(".lora_" in name for module in modules for name, _ in module.named_parameters())


def peft_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that peft puts before every name."""
    return {key.removeprefix("base_model.model."): value for key, value in state.items()}
