"""Load rewards, score samples with them, and refuse the ways in which rewards die silently.

A reward is any callable `samples -> scores` with one finite number per sample; higher is better. Scores come as a list, tuple,
numpy array or tensor.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import Unavailable, UserError, user_code
from flowgrpo.core.held import OBJECT, held
from flowgrpo.core.plugins import attribute, resolve
from flowgrpo.core.rounding import SHARE, rounding
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.asking import Spoilt, ask, ask_with_gradient
from flowgrpo.scoring.card import UNSTATED, Card, card_of
from flowgrpo.scoring.serving.client import Served

T = TypeVar("T")
Reward = Callable[[Samples], Sequence[float]]
PACKAGE = "flowgrpo.rewards"


def find_reward(use: str) -> tuple[Callable, Card]:
    """The function or class that `use` names, and its card. A module alone names its `reward`, or the one with a card in it."""
    if use.startswith(OBJECT):
        return held(use), card_of(held(use))
    module, attr = resolve(use, PACKAGE)
    if attr is None and "reward" not in vars(module):
        names = stated(module)
        if len(names) != 1:
            choice = " or ".join(f"'{use}:{name}'" for name in names) or f"'{use}:NAME'"
            raise UserError(f"'{use}' holds {len(names)} rewards; say which: {choice}")
        attr = names[0]
    target = attribute(module, attr or "reward", use)
    if not callable(target):
        raise UserError(f"reward '{use}' is not callable")
    return target, card_of(target)


def stated(module: ModuleType) -> list[str]:
    """The names of the rewards with a card that a module defines."""
    callables = {name: value for name, value in vars(module).items() if isinstance(value, type | FunctionType)}
    defined = {name: value for name, value in callables.items() if value.__module__ == module.__name__}
    return [name for name, value in defined.items() if card_of(value) is not UNSTATED]


def load_reward(use: str, arguments: Mapping[str, Any] | None = None) -> Reward:
    """A class is constructed with the arguments; a function is taken as it is."""
    target, _ = find_reward(use)
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
    with user_code(f"reward '{use}' can't be made: it"):
        return cast(Reward, target(**arguments))


class Elsewhere(Protocol):
    """A reward that other processes compute, `count` calls at a time."""

    card: Card
    count: int

    def __call__(self, samples: Samples) -> Sequence[float]: ...


def _loaded(config: RewardConfig) -> tuple[Reward, Card]:
    if config.url is not None:
        served = Served(config.url, config.timeout, config.token)
        return served, served.card
    assert config.use is not None
    return load_reward(config.use, config.arguments), find_reward(config.use)[1]


class Scorer:
    """The rewards of a run by label, kept apart; those `elsewhere` are not loaded here."""

    def __init__(self, rewards: Mapping[str, RewardConfig], elsewhere: Mapping[str, Elsewhere] | None = None) -> None:
        there = elsewhere or {}
        loaded = {
            label: (there[label], there[label].card) if label in there else _loaded(reward) for label, reward in rewards.items()
        }
        self.rewards = {label: reward for label, (reward, _) in loaded.items()}
        self.cards = {label: card for label, (_, card) in loaded.items()}
        self.served = [label for label, reward in rewards.items() if reward.url is not None or label in there]
        self.at_once = max((cast(Elsewhere, self.rewards[label]).count for label in self.served), default=1)
        """Calls that may be under way at a time."""
        self.threaded = [label for label, reward in rewards.items() if reward.beside]
        self.weights = {label: r.weight for label, r in rewards.items()}

    @property
    def reads_latents(self) -> bool:
        """Whether any reward does."""
        return any(card.reads == "latents" for card in self.cards.values())

    @property
    def looks(self) -> bool:
        """Whether any reward looks at decoded samples."""
        return any(card.reads != "latents" for card in self.cards.values())

    def require(self, makes: Sequence[str], maker: str) -> None:
        """Refuse rewards of what is not made; `maker` says whose verb "makes" is."""
        for label, card in self.cards.items():
            if card.reads not in (None, *makes):
                raise UserError(f"reward '{label}' reads {card.reads}, but {maker} {' or '.join(makes)}")

    @property
    def trained(self) -> list[str]:
        """The labels of the rewards that are trained on: those with a weight, and gates."""
        return [label for label, weight in self.weights.items() if weight]

    def require_noisy(self) -> None:
        """Refuse to score states on their way where a trained reward can't."""
        for label in self.trained:
            if not self.cards[label].noisy:
                raise UserError(
                    f"completion 'latents' scores states while they are noisy, and reward '{label}' can't: it must read latents "
                    "at any noise level, as latent_scene:soft does; give it weight 0, or use completion 'deterministic'"
                )

    def require_differentiable(self) -> None:
        """Refuse to go back through a trained reward that has no gradient."""
        for label in self.trained:
            if not self.cards[label].differentiable:
                raise UserError(
                    f"this method trains by the gradient of the rewards, and reward '{label}' has none (no card with "
                    "differentiable=True, as latent_scene:soft has one); give it weight 0, or take a method such as flow_grpo"
                )

    def with_gradient(self, samples: Samples) -> dict[str, Tensor]:
        """[B] float32 for each trained reward, with the gradient in the pixels or latents of the samples."""
        return {
            label: ask_with_gradient(
                f"reward '{label}'", self.rewards[label], samples.unseen if self.cards[label].reads == "latents" else samples
            )
            for label in self.trained
        }

    def check(self, prompts: Sequence[Prompt], source: str) -> None:
        """Refuse prompts of the file or benchmark `source` whose rows don't hold what a reward needs, as its card says."""
        for label, card in self.cards.items():
            for prompt in prompts if card.check else ():
                assert card.check
                try:
                    card.check(self.rewards[label], prompt)
                except UserError as error:
                    raise UserError(f"{source}, row {prompt.index + 1}: reward '{label}' can't use it: {error}") from error

    def __call__(self, samples: Samples, labels: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """[B] float64 per label, of all or of these; the first failure of any reward on any sample is raised."""
        return self._each(self._scores, samples, self.rewards if labels is None else labels)

    @property
    def alone(self) -> list[str]:
        """The labels of the rewards that do not compare: they can score a sample that is the only one of its prompt."""
        return [label for label, card in self.cards.items() if not card.compares]

    def attempt(self, samples: Samples, labels: Collection[str] | None = None) -> dict[str, list[float | UserError]]:
        """For each sample its score, or what failed. A group that fails takes no other group with it.

        A reward that changes its samples is `Spoilt`, and ends it all.
        """
        return self._each(self._attempt, samples, self.rewards if labels is None else labels)

    def _each(self, score: Callable[[str, Samples], T], samples: Samples, labels: Collection[str]) -> dict[str, T]:
        """Served rewards are asked all at once, about samples of their own; meanwhile those of this process score one after the
        other."""
        with ThreadPoolExecutor() as pool:
            asked = {label: pool.submit(score, label, replace(samples)) for label in labels if label in self.served}
            here = {label: score(label, samples) for label in labels if label not in asked}
            return {label: here[label] if label in here else asked[label].result() for label in labels}

    def _attempt(self, label: str, samples: Samples) -> list[float | UserError]:
        try:
            return self._scores(label, samples).tolist()
        except Spoilt:
            raise
        except Unavailable as error:
            return [error] * len(samples)
        except UserError as error:
            numbers = dict.fromkeys(samples.group)
            if len(numbers) == 1:
                return [error] * len(samples)
        scores: dict[int, float | UserError] = {}
        for number in numbers:
            rows = [i for i, group in enumerate(samples.group) if group == number]
            scores |= dict(zip(rows, self._attempt(label, samples.take(rows)), strict=True))
        return [scores[i] for i in range(len(samples))]

    def _scores(self, label: str, samples: Samples) -> np.ndarray:
        if self.cards[label].reads == "latents":
            samples = samples.unseen
            if not self.cards[label].noisy and bool(samples.latents.sigma.any()):
                raise UserError(f"reward '{label}' reads finished latents, and was asked about noisy ones")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cards[label].differentiable):
            values = ask(f"reward '{label}'", self.rewards[label], samples)
        low, high = self.cards[label].range
        slack = SHARE * max([1.0, *(abs(end) for end in (low, high) if np.isfinite(end))])
        if (bad := np.flatnonzero(~np.isfinite(values))).size:
            raise UserError(f"reward '{label}' returned {values[bad[0]]} for the prompt '{samples.prompts[bad[0]]}'")
        if (bad := np.flatnonzero((values < low - slack) | (values > high + slack))).size:
            raise UserError(
                f"reward '{label}' returned {values[bad[0]]:g} for the prompt '{samples.prompts[bad[0]]}', outside of its "
                f"range {low:g} to {high:g}"
            )
        return values


def require_slope(scorer: Scorer, samples: Samples) -> None:
    """Stop before a run starts if a trained reward fails to give a gradient on real samples, or if that is 0 on all of them."""
    states, pixels = samples.states, samples.outputs if samples.outputs is None else samples.decoded
    leaves = [part.detach().clone().requires_grad_() for part in (states and states.states, pixels) if isinstance(part, Tensor)]
    states = replace(states, states=leaves[0]) if states else None
    given = replace(samples, states=states, outputs=leaves[-1] if isinstance(pixels, Tensor) else pixels)
    for label, scores in scorer.with_gradient(given).items():
        slopes = torch.autograd.grad(scores.sum(), leaves, retain_graph=True, allow_unused=True)
        if not any(slope is not None and bool(slope.any()) for slope in slopes):
            raise UserError(
                f"reward '{label}' has the gradient 0 on all of {len(samples)} probe samples, so it trains nothing; look for a "
                "rounding, a threshold or a clip in it"
            )


def probe(scorer: Scorer, samples: Samples) -> None:
    """Stop before a run starts if a reward fails on real samples or can't tell them from what shows nothing."""
    if sentences := constant(scorer, samples):
        raise UserError(f"{sentences[0]}: a constant reward trains nothing")


def constant(scorer: Scorer, samples: Samples) -> list[str]:
    """What there is to say of each reward that can't tell samples from what shows nothing. Errors: UserError if one fails."""
    scores = scorer(Samples.concatenate([samples, *samples.meaningless()]))
    flat = [label for label, values in scores.items() if scorer.weights[label] and np.ptp(values) <= rounding(values)]
    what = f"to all of {3 * len(samples)} probe samples (the model's own, noise, nothing)"
    return [f"reward '{label}' gave {scores[label][0]:g} {what}" for label in flat]
