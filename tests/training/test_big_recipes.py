"""The recipes for big models and for diffusion hold what was published, and train tiny pipelines of the same classes."""

import json
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from flowgrpo.cli.main import main
from flowgrpo.config.run import Config, load_config
from flowgrpo.core.paths import recipes
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import ATTENTION, DENOISERS

TINY = {
    "sd-1.5": "sd15",
    "sdxl": "sdxl",
    "pixart": "pixart_alpha",
    "qwen-image": "qwenimage",
    "z-image": "z_image",
    "flux.2": "flux2",
    "flux.1-kontext": "flux_kontext",
    "wan2.1-1.3b": "wan",
    "wan2.2-a14b": "wan22",
    "hunyuan-video": "hunyuan_video",
    "ltx-video": "ltx",
    "sana": "sana",
}
RECIPES = sorted(name for name in recipes() if name.split("/")[0] in TINY)
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

REWARD = """
def reward(samples):
    return samples.made.flatten(1).mean(1).tolist()
"""
SMALL = [
    *("rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.prompts=prompts.jsonl", "optimizer.steps_per_update=1"),
    *("updates=2", "checkpoints.every=2", "ema={decay: 0.9}", "policy.model=pipeline"),
]
GEOMETRY = {
    "hunyuan-video/dance_grpo": ["selection=[{type: best_worst, keep: 2}, {type: step_fraction, fraction: 0.6}]"],
    "ltx-video/flow_grpo_fast": ["rollout.plan.last=3"],
    "sana/flow_grpo_fast": ["rollout.plan.last=3"],
    "wan2.1-1.3b/dance_grpo": ["policy.call.num_frames=1"],
}
"""What some need besides, for groups of four and five steps, or as they are meant."""
EXPERTS = {"wan2.2-a14b/grpo_guard": {"transformer", "transformer_2"}}


def entry(recipe: str) -> tiny.Tiny:
    return tiny.pipelines()[TINY[recipe.split("/")[0]]]


def picture(size: tuple[int, int], file: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(file)
    return file.name


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_published_hyper_parameters_survive_the_bases(recipe):
    config = load_config(recipe)
    rollout, objective, lora = config.rollout, config.objective, config.policy.lora
    shape = rollout.plan.shape(config.policy.steps, rollout.group_size, 0, np.random.default_rng(0))
    sizes = (config.policy.steps, rollout.prompts_per_update, rollout.group_size, len(shape.trained) // rollout.group_size)
    rates = (config.optimizer.lr, objective.clip[0], objective.kl.coefficient, lora and lora.rank)
    assert (*sizes, *rates) == PUBLISHED[recipe]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_class_takes_the_call_and_has_the_layers(recipe):
    pipe, policy = entry(recipe).build(), load_config(recipe).policy
    assert policy.call.keys() <= signature(type(pipe).__call__).parameters.keys()
    modules = [module for name in DENOISERS if (module := pipe.components.get(name)) is not None]
    layers = [f".{name}" for module in modules for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    targets = policy.lora.targets if policy.lora else ()
    assert targets in ((), ATTENTION) or all(any(name.endswith(f".{target}") for name in layers) for target in targets)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_a_tiny_random_pipeline_of_its_class(recipe, capsys, tmp_path):
    config = load_config(recipe)
    entry(recipe).build().save_pretrained(tmp_path / "pipeline")
    write_prompts(entry(recipe), tmp_path)
    assert main(["train", recipe, *SMALL, *fitted(recipe, config), *GEOMETRY.get(recipe, [])]) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2 and all(row["grad_norm"] > 0 for row in metrics)
    if config.policy.lora:
        state = load_file(run / "checkpoint-000002" / "state" / "trainable.safetensors")
        moved = {key.split(".")[0] for key, value in state.items() if ".lora_B." in key and value.any()}
        assert moved >= EXPERTS.get(recipe, set()) and moved


def write_prompts(pipeline: tiny.Tiny, folder: Path) -> None:
    pictures = {key: picture(size, folder / f"{key}.png") for key, size in pipeline.conditions.items()}
    rows = [{"prompt": prompt, **pictures} for prompt in ("a red circle", "a blue square")]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fitted(recipe: str, config: Config) -> list[str]:
    """The tiny pipeline's call, few steps, and a cheap reward in the place of each."""
    rewards = {label: {"use": "my_reward.py:reward", "weight": reward.weight} for label, reward in config.rewards.items()}
    return [
        *(f"policy.call={json.dumps(entry(recipe).call)}", f"policy.steps={min(5, config.policy.steps)}"),
        *(f"rewards={json.dumps(rewards)}", f"rollout.micro_batch={min(4, config.rollout.micro_batch)}"),
        *(["policy.lora.rank=2"] if config.policy.lora else []),
    ]
