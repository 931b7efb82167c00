"""Trainers of tiny random models, with adapters that have left 0 where there are any, and a reward of one's own."""

from dataclasses import dataclass, field

import numpy as np
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.training.trainer import Trainer

CPU = torch.device("cpu")
TEXT = ["policy.prompt_length=5", "policy.length=4", "policy.steps=2", "policy.sampler.type=random_order"]
PICTURES = ["policy.lora.rank=2", "policy.spacing=pipeline", "policy.steps=3"]
PLAIN = [
    *("evaluation=null", "ema=null", "optimizer.warmup=0", "optimizer.decay_over=null", "optimizer.weight_decay=0"),
    *("optimizer.steps_per_update=1", "optimizer.max_grad_norm=1e9", "optimizer.eps=1e-30"),
    *("rollout.prompts_per_update=2", "rollout.group_size=8"),
]


@dataclass
class Judged:
    """A scorer of one reward."""

    label: str
    reward: object
    weights: dict = field(default_factory=dict)
    measured: dict = field(default_factory=dict)
    """By label, what a rule has to know of samples."""
    served = threaded = ()
    looks = True

    @property
    def rewards(self):
        return {self.label: self.reward, **self.measured}

    def __call__(self, samples):
        return {label: np.array(reward(samples), float) for label, reward in self.rewards.items()}


def sevens(samples):
    """The share of the four characters that are a 7."""
    return [text.count("7") / 4 for text in samples.texts]


def brightness(samples):
    return samples.images.mean((1, 2, 3)).tolist()


def picture_trainer(pipelines, *more, method="flow_grpo", rule=None):
    call = ",".join(f"{key}: {value}" for key, value in tiny.pipelines()["sd3"].call.items())
    model = [f"policy.model={pipelines['sd3']}", f"policy.call={{{call}}}", "rewards={it: {use: 'x:y'}}"]
    return made(["mini", method, *([rule] if rule else [])], [*PLAIN, *PICTURES, *model, *more], brightness)


def text_trainer(mdlm, *more, rule=None):
    rewards = ["rewards.countdown=null", "rewards.strict=null", "rewards.it={use: 'x:y'}"]
    overrides = [*PLAIN, *TEXT, f"policy.model={mdlm}", *rewards, *more]
    return made(["mini-mdlm", "trajectory", *([rule] if rule else [])], overrides, sevens)


def made(recipe, overrides, reward):
    config = load_config(recipe, overrides)
    policy = config.policy.build(CPU, config.seed)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    prompts = [Prompt(0, "1+2=:", {"answer": "77", "hint": "77:"}), Prompt(1, "7:", {"answer": "1234", "hint": "7:"})]
    measured = {label: load_reward(one.use, one.arguments) for label, one in config.rewards.items() if label != "it"}
    return Trainer(config, policy, prompts, Judged("it", reward, measured=measured), Processes.alone())
