"""Rewards that are named on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowgrpo.config.recipes import read_recipe
from flowgrpo.config.sections import RewardConfig
from flowgrpo.config.tree import with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import Section, checked

REWARDS = """separated by commas: rewards as a config names them, or .yaml files with a section `rewards:` as in a training
config (labels, arguments, urls)"""
SECTION = "rewards."
ARGUMENTS = f"{SECTION}LABEL.arguments.KEY=VALUE changes an argument of a reward; the label * is all rewards that have it"


class Chosen(Section):
    """The rewards by label."""

    rewards: dict[str, RewardConfig]


def chosen_rewards(names: str) -> dict[str, RewardConfig]:
    """`a,b`: rewards as a config names them, each its own label, or YAML files whose section `rewards` is taken."""
    tree: dict[str, Any] = {}
    for name in filter(None, names.split(",")):
        is_file = name.endswith((".yaml", ".yml"))
        named = read_recipe(name).tree.get("rewards") if is_file else {name: {"use": name}}
        if not isinstance(named, dict):
            raise UserError(f"{name} has no section 'rewards'")
        if twice := named.keys() & tree.keys():
            raise UserError(f"the reward '{min(twice)}' is named twice")
        tree |= named
    return checked(Chosen, {"rewards": tree}, "--rewards").rewards


def with_arguments(rewards: Mapping[str, RewardConfig], arguments: Sequence[str]) -> dict[str, RewardConfig]:
    """The rewards with these arguments, each `rewards.label.arguments.key=value` or `label.key=value`.

    The label `*` stands for all rewards that have such an argument already.
    """
    changed = dict(rewards)
    for argument in arguments:
        labels, setting = _meant(changed, argument)
        for label in labels:
            tree = with_overrides(changed[label].model_dump(), [f"arguments.{setting}"])
            changed[label] = checked(RewardConfig, tree, argument)
    return changed


def of_rewards(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of rewards, and the others."""
    mine = [override for override in overrides if override.startswith(SECTION)]
    return mine, [override for override in overrides if override not in mine]


def _meant(rewards: Mapping[str, RewardConfig], argument: str) -> tuple[list[str], str]:
    """Labels, and `key=value`. Labels may hold dots: the longest that fits is meant."""
    path = argument.removeprefix(SECTION)
    label = max((label for label in ("*", *rewards) if path.startswith(f"{label}.")), key=len, default=None)
    setting = path.removeprefix(f"{label}.")
    if label and path != argument:
        label, setting = label if setting.startswith("arguments.") else None, setting.removeprefix("arguments.")
    key = setting.partition("=")[0]
    labels = [known for known, reward in rewards.items() if known == label or (label == "*" and key in reward.arguments)]
    if not labels:
        wanted = f"{SECTION}LABEL.arguments.KEY=VALUE with the label of a reward (known: {', '.join(rewards)})"
        raise UserError(f"'{argument}' must look like {wanted}")
    return labels, setting
