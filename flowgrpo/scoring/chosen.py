"""Rewards that are named on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowgrpo.config.run import RewardConfig, checked, read_tree, with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import find_config
from flowgrpo.core.section import Section

REWARDS = """separated by commas: rewards as a config names them, or .yaml files with a section `rewards:` as in a training
config (labels, arguments, urls)"""
SET = "an argument of a reward; the label * is all rewards that have it"


class Chosen(Section):
    """The rewards by label."""

    rewards: dict[str, RewardConfig]


def chosen_rewards(names: str) -> dict[str, RewardConfig]:
    """`a,b`: rewards as a config names them, each its own label, or YAML files whose section `rewards` is taken."""
    tree: dict[str, Any] = {}
    for name in filter(None, names.split(",")):
        is_file = name.endswith((".yaml", ".yml"))
        found = read_tree(find_config(name)).get("rewards") if is_file else {name: {"use": name}}
        if not isinstance(found, dict):
            raise UserError(f"{name} has no section 'rewards'")
        if twice := found.keys() & tree.keys():
            raise UserError(f"the reward '{min(twice)}' is named twice")
        tree |= found
    return checked(Chosen, {"rewards": tree}, "--rewards").rewards


def with_arguments(rewards: Mapping[str, RewardConfig], arguments: Sequence[str]) -> dict[str, RewardConfig]:
    """The rewards with these arguments, each `label.key=value`; `*` stands for all rewards that have such an argument already."""
    changed = dict(rewards)
    for argument in arguments:
        labels, setting = _meant(changed, argument)
        for label in labels:
            tree = with_overrides(changed[label].model_dump(), [f"arguments.{setting}"])
            changed[label] = checked(RewardConfig, tree, f"--set {argument}")
    return changed


def _meant(rewards: Mapping[str, RewardConfig], argument: str) -> tuple[list[str], str]:
    """Labels, and `key=value`. Labels may hold dots: the longest that fits is meant."""
    if argument.startswith("*."):
        setting = argument.removeprefix("*.")
        labels = [label for label, reward in rewards.items() if setting.partition("=")[0] in reward.arguments]
    else:
        labels = sorted((label for label in rewards if argument.startswith(f"{label}.")), key=len)[-1:]
        setting = argument.removeprefix(f"{labels[0]}.") if labels else ""
    if not labels:
        known = ", ".join(rewards)
        raise UserError(f"--set {argument} must look like label.key=value with the label of a reward (known: {known})")
    return labels, setting
