"""Rewards as they are passed in from Python."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold_code
from flowgrpo.core.section import checked

Reward = str | Callable | Mapping[str, Any] | RewardConfig
"""A name, a function or an object that is called like one, a class that is made without arguments, or a section of a config."""
Rewards = Mapping[str, Reward] | Sequence[str] | str


def reward_configs(rewards: Rewards) -> dict[str, RewardConfig]:
    """By label. A name alone is its own label."""
    named = {name: name for name in ([rewards] if isinstance(rewards, str) else rewards)}
    given: Mapping[str, Reward] = rewards if isinstance(rewards, Mapping) else named
    if not given:
        raise UserError("there is no reward; pass at least one, such as {'bright': my_function}")
    return {label: checked(RewardConfig, section_of(label, reward), f"reward '{label}'") for label, reward in given.items()}


def section_of(label: str, reward: Reward) -> dict[str, Any]:
    """As a config holds it."""
    if isinstance(reward, RewardConfig):
        return reward.model_dump(exclude_unset=True)
    section: dict[str, Any] = dict(reward) if isinstance(reward, Mapping) else {"use": reward}
    if callable(section.get("use")):
        section["use"] = hold_code(section["use"], label)
    return section
