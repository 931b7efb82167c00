"""Adapters as files that pipelines load: through diffusers where the pipeline has a loader, else peft's own keys.

A trained B is stored times alpha / rank, since a loader takes the product A B as it is where a file states no alpha.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LoraBaseMixin
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.core.pretrained import require_all
from flowgrpo.policies._fit import count_lora, loading, peft_state, require_lora

FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"


def save(
    pipe: DiffusionPipeline, modules: Mapping[str, nn.Module], states: Mapping[str, dict[str, Tensor]], scale: float, folder: Path
) -> None:
    """The adapters of these denoisers, with the weights in `states`; of a second expert, whose name diffusers' saver does not
    know, in a file of its own."""
    layers = {name: _scaled(get_peft_model_state_dict(module, states[name]), scale) for name, module in modules.items()}
    if not has_loader(pipe, modules):
        tensors = {f"{name}.{key}": value.contiguous() for name, state in layers.items() for key, value in state.items()}
        save_file(tensors, folder / FILE)
        return
    first = _known(pipe, modules)
    pipe.save_lora_weights(str(folder), **{f"{name}_lora_layers": layers[name] for name in first})
    for name in modules.keys() - first:
        pipe.save_lora_weights(str(folder), **{f"{first[0]}_lora_layers": layers[name]}, weight_name=_own_file(name))


def save_layers(module: Any, state: dict[str, Tensor], folder: Path) -> None:
    """The adapter of a denoiser whose pipeline has no loader, as `load_lora_adapter` of the denoiser reads it."""
    layers, facts = get_peft_model_state_dict(module, state), module.peft_config["default"].to_dict()
    LoraBaseMixin.write_lora_layers(layers, str(folder), True, FILE, None, True, facts)


def load(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module], folder: Path) -> None:
    """A run's adapter, one that diffusers' loader knows, or peft's own (adapter_model.safetensors with adapter_config.json).

    Refused where it is not whole, fits another model, or changes nothing.
    """
    if (folder / FILE).is_file():
        _load_diffusers(pipe, modules, folder)
    elif (folder / PEFT_FILE).is_file():
        load_peft(_only(modules, folder), folder)
    else:
        raise UserError(f"{folder}: no {FILE} in it, and no {PEFT_FILE}")


def load_peft(module: nn.Module, folder: Path) -> None:
    """An adapter as peft saves it; its scale is what adapter_config.json says."""
    file = folder / PEFT_FILE
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: no adapter_config.json in it, which says how {PEFT_FILE} is scaled")
    with loading(file):
        state = peft_state(load_file(file))
        require_lora(file, state, module)
        _inject(module, LoraConfig.from_pretrained(str(folder)), state, file)


def _only(modules: Mapping[str, nn.Module], folder: Path) -> nn.Module:
    if len(modules) > 1:
        raise UserError(f"{folder / PEFT_FILE} does not say which of {', '.join(modules)} it is for; this pipeline needs {FILE}")
    return next(iter(modules.values()))


def _load_diffusers(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module], folder: Path) -> None:
    files = {name: folder / _own_file(name) for name in modules if (folder / _own_file(name)).is_file()}
    if not has_loader(pipe, modules):
        with loading(folder / FILE):
            for name, state in _by_component(folder / FILE, load_file(folder / FILE), modules).items():
                require_lora(folder / FILE, state, modules[name])
                _inject(modules[name], _unscaled(state), state, folder / FILE)
        return
    _through_pipe(pipe, folder / FILE, {name: module for name, module in modules.items() if name not in files}, {})
    for name, file in files.items():
        _through_pipe(pipe, file, {_known(pipe, modules)[0]: modules[name]}, {f"load_into_{name}": True})


def _through_pipe(pipe: Any, file: Path, modules: Mapping[str, nn.Module], options: dict[str, bool]) -> None:
    """By diffusers' loader, which passes over what it does not know."""
    with loading(file):
        encoders = {name: module for name, module in pipe.components.items() if name.startswith("text_encoder") and module}
        components = {**encoders, **modules}
        states = _by_component(file, _named_by_peft(pipe, file), components)
        for name in modules.keys() & states.keys():
            if any(".lora_A." in key or ".lora_B." in key for key in states[name]):
                require_lora(file, states[name], modules[name])
        if not modules.keys() & states.keys():
            raise UserError(f"{file} holds nothing for {' or '.join(modules)}, but for {', '.join(sorted(states)) or 'nothing'}")
        before = count_lora(components.values())
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, **options)
        loaded, held = count_lora(components.values()) - before, sum("lora" in key for state in states.values() for key in state)
        if loaded != held:
            raise UserError(f"{file}: {held} tensors are in it, and {loaded} fit into the model; it is for another one")
        if not any(
            b.any() for component in components.values() for name, b in component.named_parameters() if ".lora_B." in name
        ):
            raise UserError(f"{file}: every product A B is 0, so the adapter changes nothing; was it trained?")


def _named_by_peft(pipe: Any, file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, with the names that diffusers gives those of other trainers."""
    state = pipe.lora_state_dict(str(file.parent), weight_name=file.name)
    return state[0] if isinstance(state, tuple) else state


def _by_component(file: Path, state: Mapping[str, Tensor], components: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each component, which its name and a dot go before."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name, _, rest = key.partition(".")
        if name not in components:
            raise UserError(
                f"{file}: '{key}' is for none of {', '.join(components)}: it is for another model, or has another prefix"
            )
        states.setdefault(name, {})[rest] = tensor
    return states


def has_loader(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module]) -> bool:
    """Whether diffusers loads adapters into this pipeline; some have the method, but a denoiser that it does not work on."""
    return "load_lora_weights" in dir(pipe) and all("load_lora_adapter" in dir(module) for module in modules.values())


def _known(pipe: DiffusionPipeline, modules: Mapping[str, nn.Module]) -> list[str]:
    parameters = inspect.signature(pipe.save_lora_weights).parameters
    return [name for name in modules if f"{name}_lora_layers" in parameters]


def _own_file(name: str) -> str:
    return f"{name}_lora_weights.safetensors"


def _scaled(layers: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {key: value * scale if ".lora_B." in key else value for key, value in layers.items()}


def _unscaled(state: Mapping[str, Tensor]) -> LoraConfig:
    targets = sorted({key.partition(".lora_A")[0] for key in state if ".lora_A" in key})
    rank = next(len(value) for key, value in state.items() if ".lora_A" in key)
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)


def _inject(module: Any, config: LoraConfig, state: Mapping[str, Tensor], file: Path) -> None:
    inject_adapter_in_model(config, module)
    info = set_peft_model_state_dict(module, dict(state))
    require_all(file, [key for key in info.missing_keys if ".lora_" in key], info.unexpected_keys)
