"""Load rewards, score samples with them, and refuse the ways in which rewards die silently.

A reward is any callable `samples -> scores` with one finite number per sample; higher is better.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from flowgrpo.config import RewardConfig
from flowgrpo.errors import UserError, said
from flowgrpo.plugins import attribute, resolve
from flowgrpo.samples import Samples

Reward = Callable[[Samples], Sequence[float]]
PACKAGE = "flowgrpo.rewards"


def load_reward(use: str, arguments: Mapping[str, Any] | None = None) -> Reward:
    """A class is constructed with the arguments; a function is taken as it is."""
    module, attr = resolve(use, PACKAGE)
    target = attribute(module, attr or "reward", use)
    if not callable(target):
        raise UserError(f"reward '{use}' is not callable")
    if isinstance(target, type):
        return _construct(target, use, arguments or {})
    if arguments:
        raise UserError(f"reward '{use}' is a function and takes no arguments; make it a class to configure it")
    return cast(Reward, target)


def _construct(target: type, use: str, arguments: Mapping[str, Any]) -> Reward:
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise UserError(f"reward '{use}' can't be made with arguments {dict(arguments)}: {error}") from error
    return cast(Reward, target(**arguments))


class Scorer:
    """The rewards of a run by label, kept apart."""

    def __init__(self, rewards: Mapping[str, RewardConfig]) -> None:
        self.rewards = {label: load_reward(r.use, r.arguments) for label, r in rewards.items()}
        self.weights = {label: r.weight for label, r in rewards.items()}

    def __call__(self, samples: Samples) -> dict[str, np.ndarray]:
        """[B] float64 per label."""
        return {label: _checked(label, reward, samples) for label, reward in self.rewards.items()}


def _checked(label: str, reward: Reward, samples: Samples) -> np.ndarray:
    try:
        values = np.array([float(score) for score in reward(samples)])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"reward '{label}' raised {said(error)}") from error
    if len(values) != len(samples):
        raise UserError(f"reward '{label}' returned {len(values)} scores for {len(samples)} samples")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(f"reward '{label}' returned {values[bad]} for the prompt '{samples.prompts[bad]}'")
    return values


def probe(scorer: Scorer, samples: Samples) -> None:
    """Stop before a run starts if a reward fails on real samples or can't tell them from what shows nothing."""
    for label, values in scorer(Samples.concatenate([samples, *samples.meaningless()])).items():
        if scorer.weights[label] and np.ptp(values) == 0.0:
            raise UserError(
                f"reward '{label}' gave {values[0]:g} to all of {len(values)} probe samples (the model's own, noise, "
                "nothing): a constant reward trains nothing"
            )
