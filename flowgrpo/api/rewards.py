"""Rewards as they are passed in from Python."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold_code
from flowgrpo.core.section import checked

T = TypeVar("T")
Reward = str | Callable | Mapping[str, Any] | RewardConfig
"""A name, a function or an object that is called like one, a class that is made without arguments, or a section of a config."""
Named = str | Callable
"""What says itself what it is called."""
Rewards = Mapping[str, Reward] | Sequence[Named] | Named


def reward_configs(rewards: Rewards) -> dict[str, RewardConfig]:
    """By label."""
    given = labelled(rewards)
    if not given:
        raise UserError("there is no reward; pass at least one, such as {'bright': my_function}")
    return {label: checked(RewardConfig, section_of(label, reward), f"reward '{label}'") for label, reward in given.items()}


def labelled(rewards: Mapping[str, T] | Sequence[Named] | Named) -> Mapping[str, T | Named]:
    """A name is its own label, and that of a function or class is what it is called. Errors: UserError for what has none, or that
    of another one."""
    if isinstance(rewards, Mapping):
        return rewards
    several = [rewards] if isinstance(rewards, str) or callable(rewards) else rewards
    named = [(_label(reward), reward) for reward in several]
    if len(dict(named)) < len(named):
        names = ", ".join(label for label, _ in named)
        raise UserError(f"two rewards are called alike: {names}; pass a dict with a label for each")
    return dict(named)


def _label(reward: Named) -> str:
    if isinstance(reward, str):
        return reward
    if (inspect.isroutine(reward) or inspect.isclass(reward)) and reward.__name__.isidentifier():
        return reward.__name__
    raise UserError(f"a reward of type {type(reward).__name__} needs a label; pass a dict, such as {{'bright': my_function}}")


def section_of(label: str, reward: Reward) -> dict[str, Any]:
    """As a config holds it."""
    if isinstance(reward, RewardConfig):
        return reward.model_dump(exclude_unset=True)
    section: dict[str, Any] = dict(reward) if isinstance(reward, Mapping) else {"use": reward}
    if callable(section.get("use")):
        section["use"] = hold_code(section["use"], label)
    return section
