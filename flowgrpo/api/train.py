"""Recipes as objects, and their runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from flowgrpo.api.load import LoadedPolicy
from flowgrpo.api.rewards import Named, Reward, labelled, reward_configs, section_of
from flowgrpo.config.recipes import name_of, read_recipe
from flowgrpo.config.run import Config, dump
from flowgrpo.config.sections import RewardConfig
from flowgrpo.config.tree import merge, with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT
from flowgrpo.core.plugins import nearest
from flowgrpo.core.processes import once
from flowgrpo.core.section import Section, checked
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._policy import DiffusersPolicy, config_of
from flowgrpo.runs.provenance import AUTO, Provenance, found_again, going_on
from flowgrpo.runs.run import Run
from flowgrpo.training.run import OnUpdate
from flowgrpo.training.run import train as train_run


@dataclass(frozen=True)
class Recipe:
    """What `train` trains: the words of a sentence, their config with what was changed in it, and what its runs are called."""

    words: tuple[str, ...]
    config: Config
    name: str

    def __str__(self) -> str:
        return dump(self.config)


def recipe(*sentence: str, name: str | None = None, **changes: Any) -> Recipe:
    """A model, a method and a task, a shipped recipe or your own file, as `flowgrpo train` takes it, with changes.

    Words may hold `a.b=c`. `changes` are keys of the config; a mapping changes the section's keys that it names. Objects stand
    where a config has names: a kernel, plan or credit of `plans`, `kernels` and `credits` or a class of your own, a function as a
    reward, a loaded pipeline as `policy={"model": pipe}`; None takes a reward of the recipe out. Runs are called `name`, or after
    the words: `compare` takes runs of one name for seeds of one recipe. Errors: UserError that names what does not fit.

    >>> recipe("mini flow_grpo", updates=3, rollout={"group_size": 6}).config.rollout.group_size
    6
    """
    if strange := [type(part).__name__ for part in sentence if not isinstance(part, str)]:
        raise UserError(f"a recipe is words, as in recipe('mini flow_grpo'), and this is of type {strange[0]}")
    words = [word for part in sentence for word in part.split()]
    overrides = [word for word in words if "=" in word]
    words = [word for word in words if word not in overrides]
    if not words:
        raise UserError("a recipe needs a word: a shipped name (`flowgrpo recipes` lists them) or a file")
    found = read_recipe(words)
    tree = merge(with_overrides(found.tree, overrides), _plain(changes))
    if unfit := found.complaint(tree):
        raise UserError(f"{' '.join(words)}: {unfit}")
    return Recipe(tuple(words), checked(Config, tree, " ".join(words)), name or name_of(words))


def train(
    what: Recipe | str,
    *,
    rewards: Mapping[str, Reward | None] | Sequence[Named] | Named | None = None,
    policy: LoadedPolicy | None = None,
    on_update: OnUpdate | None = None,
    resume: Run | Path | str | None = None,
) -> Run:
    """Train a recipe, in a new folder below its `output`; its run, which is also on the disk.

    `rewards` are trained on; those of the recipe are measured still, but for those that are None here. `policy` is trained in
    place of the recipe's model, and ends with the final weights. `on_update(metrics)` is called after every update; the run ends
    there if it returns `STOP`. `resume` goes on with a run folder or a checkpoint; with "auto" with the newest run that has this
    config, from its last checkpoint that can be read, or begins anew where there is none.

    Errors: UserError, which says how to go on where something was trained.
    """
    chosen = what if isinstance(what, Recipe) else recipe(what)
    config = chosen.config
    if rewards is not None:
        given = labelled(rewards)
        if absent := [label for label, reward in given.items() if reward is None and label not in config.rewards]:
            raise UserError(f"the recipe has no reward '{absent[0]}' to take out ({nearest(absent[0], config.rewards)})")
        trained = reward_configs({label: reward for label, reward in given.items() if reward is not None})
        measured = {label: reward for label, reward in config.rewards.items() if label not in given}
        config = _changed(config, {"rewards": _measured(measured) | trained}, "rewards")
    if policy is not None:
        config = _changed(config, {"policy": policy.config}, "policy")
    if policy is None and isinstance(config.policy, DiffusersConfig) and config.policy.model.startswith(OBJECT):
        policy = DiffusersPolicy(config.policy, seed=config.seed)
    automatic = resume == AUTO
    if automatic:
        resume = once(lambda: found_again(chosen.name, config))
    if resume is None:
        provenance = replace(Provenance.of(list(chosen.words), config), recipe=chosen.name)
        run = train_run(config, provenance, None, policy, on_update)
    else:
        before = going_on(resume.path if isinstance(resume, Run) else Path(resume), chosen.name, config)
        before = replace(before, automatic=automatic)
        run = train_run(before.config, Provenance.load(before.run), before, policy, on_update)
    if policy is not None:
        run.policy = policy
    return run


def _measured(rewards: Mapping[str, RewardConfig]) -> dict[str, RewardConfig]:
    """The same, and none is trained on."""
    return {label: reward.model_copy(update={"weight": 0.0, "gate": False}) for label, reward in rewards.items()}


def _changed(config: Config, sections: Mapping[str, Any], said: str) -> Config:
    """With other sections, checked anew."""
    return checked(Config, {**dict(config), **sections}, said)


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """As a config's tree: sections as mappings, functions and pipelines by their names."""
    tree = {key: value.model_dump() if isinstance(value, Section) else value for key, value in changes.items()}
    if isinstance(rewards := tree.get("rewards"), Mapping):
        tree["rewards"] = {label: reward and section_of(label, reward) for label, reward in rewards.items()}
    policy = tree.get("policy")
    if isinstance(policy, Mapping) and isinstance(policy.get("model"), DiffusionPipeline):
        tree["policy"] = {**policy, "model": config_of(policy["model"], {"steps": 1}).model}
    return tree
