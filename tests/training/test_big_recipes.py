"""The recipes for big models and for diffusion hold what was published, and train tiny pipelines of the same classes."""

from inspect import signature

import pytest
from torch import nn

from flowgrpo.config.recipes import facts
from flowgrpo.config.run import load_config
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import ATTENTION, DENOISERS

PUBLISHED = {
    "sd-1.5/ddpo": (50, 16, 16, 49, 3e-4, 1e-4, 0.0, 4),
    "sd-1.5/dance_grpo": (50, 32, 16, 49, 1e-5, 1e-4, 0.0, None),
    "sdxl/flow_grpo": (15, 16, 16, 14, 3e-4, 1e-4, 0.04, 32),
    "pixart/dance_grpo": (20, 32, 16, 19, 1e-5, 1e-4, 0.0, None),
    "qwen-image/flow_grpo": (10, 32, 16, 2, 3e-4, 1e-4, 0.0, 64),
    "z-image/flow_grpo_fast": (10, 48, 16, 1, 3e-4, 1e-4, 0.0, 64),
    "flux.2/flow_grpo_fast": (8, 48, 16, 1, 3e-4, 1e-4, 0.0, 64),
    "flux.1-kontext/flow_grpo": (6, 48, 21, 5, 3e-4, 1e-4, 0.0, 64),
    "wan2.1-1.3b/dance_grpo": (20, 16, 12, 19, 1e-5, 1e-4, 0.0, None),
    "wan2.1-1.3b/flow_grpo": (20, 32, 4, 19, 1e-4, 1e-3, 0.004, 32),
    "wan2.2-a14b/flow_grpo_fast": (10, 48, 16, 1, 1e-4, 1e-4, 0.0, 64),
    "wan2.2-a14b/grpo_guard": (20, 32, 6, 19, 4e-5, 1e-4, 0.004, 64),
    "hunyuan-video/dance_grpo": (16, 32, 24, 15, 3e-4, 1e-4, 0.0, 128),
    "ltx-video/flow_grpo_fast": (24, 48, 16, 3, 3e-4, 1e-4, 0.0, 64),
    "sana/flow_grpo_fast": (10, 48, 24, 3, 3e-4, 1e-5, 0.0, 4),
}
"""Steps, prompts, group, stochastic steps, learning rate, clip, KL and LoRA rank."""


def entry(recipe: str) -> tiny.Tiny:
    return tiny.pipelines()[facts(recipe.split("/")[0]).tiny]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_hyper_parameters_survive_the_bases(recipe):
    config = load_config(recipe)
    rollout, objective, lora = config.rollout, config.objective, config.policy.lora
    shape = config.shape()
    sizes = (config.policy.steps, rollout.prompts_per_update, rollout.group_size, len(shape.trained) // rollout.group_size)
    rates = (config.optimizer.lr, objective.clip.low, objective.kl.coefficient, lora and lora.rank)
    assert (*sizes, *rates) == PUBLISHED[recipe]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_class_takes_the_call_and_has_the_layers(recipe):
    pipe, policy = entry(recipe).build(), load_config(recipe).policy
    assert policy.call.keys() <= signature(type(pipe).__call__).parameters.keys()
    modules = [module for name in DENOISERS if (module := pipe.components.get(name)) is not None]
    layers = [f".{name}" for module in modules for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    targets = policy.lora.targets if policy.lora else ()
    assert targets in ((), ATTENTION) or all(any(name.endswith(f".{target}") for name in layers) for target in targets)
