# ruff: noqa: F401
"""Align generative models that work by denoising, with one GRPO trainer.

What is listed in `__all__` is imported when it is first asked for, so that `import flowgrpo` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowgrpo.core import moved
from flowgrpo.core.threads import wait_politely
from flowgrpo.core.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from flowgrpo.api.credit import measure_credit
    from flowgrpo.api.evaluate import compare, evaluate
    from flowgrpo.api.load import load_policy
    from flowgrpo.api.rollout import Tree, rollout
    from flowgrpo.api.score import Scores, score
    from flowgrpo.api.train import Recipe, recipe, train
    from flowgrpo.config.methods import methods
    from flowgrpo.core.errors import UserError
    from flowgrpo.data import context as contexts
    from flowgrpo.data.prompts import Prompt, load_prompts
    from flowgrpo.data.samples import Samples
    from flowgrpo.evaluation.benchmarks.benchmark import Benchmark
    from flowgrpo.objective import AdvantageConfig as Advantage
    from flowgrpo.objective import auxiliary as auxiliaries
    from flowgrpo.objective import baseline as baselines
    from flowgrpo.objective import bounds
    from flowgrpo.objective import credit as credits
    from flowgrpo.objective import decision_weight as decision_weights
    from flowgrpo.objective import ratio as ratios
    from flowgrpo.objective import selection as selections
    from flowgrpo.objective import surrogate as surrogates
    from flowgrpo.objective import transform as transforms
    from flowgrpo.policies.diffusers import AttentionLora as Lora
    from flowgrpo.policies.diffusers._policy import DiffusersPolicy
    from flowgrpo.runs.run import Run
    from flowgrpo.sampling import kernels, plans
    from flowgrpo.sampling import likelihood as likelihoods
    from flowgrpo.sampling import noising as levels
    from flowgrpo.scoring.card import card
    from flowgrpo.training.run import STOP

NAMES = {
    "Advantage": "objective:AdvantageConfig",
    "Benchmark": "evaluation.benchmarks.benchmark:Benchmark",
    "DiffusersPolicy": "policies.diffusers._policy:DiffusersPolicy",
    "Lora": "policies.diffusers:AttentionLora",
    "Prompt": "data.prompts:Prompt",
    "Recipe": "api.train:Recipe",
    "Run": "runs.run:Run",
    "STOP": "training.run:STOP",
    "Samples": "data.samples:Samples",
    "Scores": "api.score:Scores",
    "Tree": "api.rollout:Tree",
    "UserError": "core.errors:UserError",
    "auxiliaries": "objective.auxiliary",
    "baselines": "objective.baseline",
    "bounds": "objective.bounds",
    "card": "scoring.card:card",
    "compare": "api.evaluate:compare",
    "contexts": "data.context",
    "credits": "objective.credit",
    "decision_weights": "objective.decision_weight",
    "evaluate": "api.evaluate:evaluate",
    "kernels": "sampling.kernels",
    "levels": "sampling.noising",
    "likelihoods": "sampling.likelihood",
    "load_policy": "api.load:load_policy",
    "load_prompts": "data.prompts:load_prompts",
    "measure_credit": "api.credit:measure_credit",
    "methods": "config.methods:methods",
    "modifiers": "objective.modifier",
    "plans": "sampling.plans",
    "prompt_samplers": "data.prompt_sampler",
    "ratios": "objective.ratio",
    "recipe": "api.train:recipe",
    "rollout": "api.rollout:rollout",
    "score": "api.score:score",
    "selections": "objective.selection",
    "surrogates": "objective.surrogate",
    "train": "api.train:train",
    "transforms": "objective.transform",
}
__all__ = sorted(NAMES)


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module 'flowgrpo' has no attribute '{name}'")
    wait_politely()
    module, _, attribute = NAMES[name].partition(":")
    found = import_module(f"flowgrpo.{module}")
    globals()[name] = vars(found)[attribute] if attribute else found
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


moved.install()
