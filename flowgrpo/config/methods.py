"""What is known of every method and rule that ships, read from its file and from what its parts say; the tables of the
documentation are made of the same rows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from flowgrpo.config.recipes import METHODS, POLICIES, RULES, facts, read_recipe, shipped
from flowgrpo.config.run import Config, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import numpy_generator
from flowgrpo.core.plugins import nearest
from flowgrpo.core.plugins import shipped as shipped_components
from flowgrpo.objective.baseline import Remembering
from flowgrpo.sampling.completion import Completion
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.orders import RandomOrder
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps

SLOTS = {
    "prompt sampler": "rollout.prompt_sampler",
    "refill": "rollout.refill",
    "allocate": "rollout.allocate",
    "context": "rollout.context",
    "plan": "rollout.plan",
    "kernel": "rollout.plan.kernel",
    "completion": "rollout.plan.completion",
    "likelihood": "policy.likelihood",
    "transforms": "transforms",
    "credit": "credit",
    "baseline": "advantage.baseline",
    "mean": "advantage.mean",
    "std": "advantage.std",
    "modifiers": "advantage.modifiers",
    "selection": "selection",
    "ratio": "objective.ratio",
    "surrogate": "objective.surrogate",
    "bounds": "objective.clip",
    "weight": "objective.weight",
    "decision weights": "objective.decision_weights",
    "reduce": "objective.reduce",
    "auxiliary": "objective.auxiliary",
}
"""Where a config says what stands in each."""
TREE = "rollout.plan={type: branch, forks: [0, 1], kernel: random_order}"
TEACHER = "teacher.checkpoint=runs/RUN/checkpoint-000001"
TRIED: dict[str, list[tuple[str, ...]]] = {
    "diffusers": [("mini", "flow_grpo"), ("mini", "branch_grpo"), ("mini", "flow_grpo", TEACHER)],
    "masked": [("mini-mdlm", "trajectory"), ("mini-mdlm", "trajectory", TREE), ("mini-mdlm", "trajectory", TEACHER)],
}
"""By type of policy what a rule is tried after: trajectories, then a tree, then with a teacher."""


@dataclass(frozen=True)
class Method:
    """A method, or a rule that goes after one.

    `trains` are types of policies. `slots` is what it chooses, by slot: names of components, or values; `sets` all that its file
    and its bases say. `needs` says what its parts can't do without. `source` is where it was published. `formula` is whose it is:
    that of public `code` or of the `paper`, `reconstructed` where neither says all of it, or this project's `own`.
    """

    name: str
    kind: Literal["method", "rule"]
    summary: str
    trains: tuple[str, ...]
    slots: dict[str, str]
    needs: tuple[str, ...]
    source: str
    formula: str
    sets: dict[str, Any]


def methods(*names: str) -> list[Method]:
    """Every method and rule that ships, or those with these names. Errors: UserError for a name of neither."""
    known = [*shipped(METHODS), *shipped(RULES)]
    if unknown := next((name for name in names if name not in known), None):
        raise UserError(f"no method or rule '{unknown}' ({nearest(unknown, known)})")
    return [_method(name) for name in names or known]


@cache
def _method(name: str) -> Method:
    about, tree = facts(name), read_recipe([name]).tree
    own, trains = read_recipe([name]).about[_path(name)], about.policies or tuple(shipped_components(POLICIES))
    return Method(
        name,
        "method" if name in shipped(METHODS) else "rule",
        about.summary,
        trains,
        {slot: said for slot, path in SLOTS.items() if (said := _chosen(tree, path.split(".")))},
        tuple(dict.fromkeys(_needs(_tried(name, trains), about.reward))),
        _source(own.source, own.summary, own.formula),
        own.formula or "",
        tree,
    )


def _path(name: str) -> Any:
    return {**shipped(METHODS), **shipped(RULES)}[name]


def _source(named: str, summary: str, formula: str | None) -> str:
    paper = re.search(r"arXiv \d{4}\.\d{5}", summary)
    return named or (paper[0] if paper else "") or ("this project" if formula == "own" else "")


def _chosen(tree: Any, path: list[str]) -> str:
    """The name of the component there, or the value; nothing where the tree does not say."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        return str(tree.get("type", ""))
    if isinstance(tree, list) and tree and all(isinstance(one, dict | str) for one in tree):
        return ", ".join(_chosen(one, []) for one in tree)
    return "" if tree in (None, []) else str(tree)


def _tried(name: str, trains: tuple[str, ...]) -> Config:
    """A method with a model of its kind; a rule after the first method that it goes with."""
    kind = next(policy for policy in TRIED if policy in trains)
    if name in shipped(METHODS):
        return load_config([TRIED[kind][0][0], name], _reward(name))
    for model, method, *overrides in TRIED[kind]:
        try:
            return load_config([model, method, name], overrides)
        except UserError as error:
            refusal = error
    raise refusal


def _reward(name: str) -> list[str]:
    """An override, for a method that is about a reward which the model's own task has not."""
    reward = facts(name).reward
    return [f"rewards={{it: {{use: '{reward}'}}}}", "evaluation=null"] if reward else []


def _needs(config: Config, reward: str | None) -> Iterator[str]:
    finished = config.objective.surrogate.needs_samples
    if config.advantage_complaint(FlowSde) or config.objective.complaint(FlowSde, finished):
        yield "ids"
    if config.objective.complaint(RandomOrder, finished):
        yield "latents"
    if config.objective.surrogate.needs_gradient:
        yield "differentiable rewards"
    if config.policy.kernels.noise_scale and config.policy.posed_states:
        yield "samples noised anew"
    if config.rollout.plan.kernel.stochastic and _lacking(config, None):
        yield "forks" if _lacking(config, Deterministic()) else "values of states on the way"
    if reward:
        yield f"reward {reward}"
    if isinstance(config.advantage.baseline, Remembering):
        yield "earlier updates of a prompt"
    if any(modifier.reads_texts for modifier in config.advantage.modifiers):
        yield "texts"
    if config.objective.needs_old_prediction or config.reads_entropy:
        yield "predictions of the rollout"
    if config.objective.needs_reference:
        yield "the model before training" if config.objective.reference == "start" else "an average of the weights"
    if any(term.of_given for term in config.objective.auxiliary):
        yield "given answers"
    if config.objective.needs_teacher:
        yield "a teacher"
    if config.calibration:
        yield "rollouts before training"


def _lacking(config: Config, completion: Completion | None) -> bool:
    """Whether its credit or selection can't work on trajectories."""
    shape = AllSteps(kernel=config.rollout.plan.kernel, completion=completion).shape(_draw(config))
    return bool(config.credit.complaint(shape)) or any(rule.complaint(shape) for rule in config.selection)


def _draw(config: Config) -> Draw:
    return Draw(config.policy.steps, config.rollout.group_size, 0, numpy_generator((0, "methods")), None)
