"""The rewards that ship, what they say of themselves, and whether they climb their ladders."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import built_in_names, resolve
from flowgrpo.core.rounding import rounding
from flowgrpo.pages.tables import markdown_table
from flowgrpo.scoring.card import Card
from flowgrpo.scoring.exemplars import noisy, photos
from flowgrpo.scoring.scorer import PACKAGE, Scorer, find_reward, stated


@dataclass(frozen=True)
class Climb:
    """Mean scores of a ladder's rungs, worst samples first, and seconds per sample; or why there are none.

    A reward without a ladder is tried on photographs with noise and without, and needs only to tell them apart.
    """

    reward: str
    means: Sequence[float]
    ladder: bool
    right: bool
    seconds: float
    remark: str = ""


def shipped() -> list[str]:
    """As a config names them: a module with one reward by its name, else `module:reward`."""
    names = []
    for module in built_in_names(PACKAGE):
        rewards = stated(resolve(module, PACKAGE)[0])
        names += [module] if len(rewards) == 1 else [f"{module}:{name}" for name in rewards]
    return names


def describe(name: str) -> str:
    """A reward's card, after what its module and itself say."""
    target, card = find_reward(name)
    module = resolve(name, PACKAGE)[0]
    low, high = card.range
    facts = {
        "reads": _read(card),
        "range": f"{low:g} to {high:g}",
        "a higher score means": card.better,
        "prompt rows hold": card.row,
        "differentiable": "yes" if card.differentiable else "",
        "licence": card.licence,
        "source": card.source,
    }
    words = [" ".join((text or "").split()) for text in (module.__doc__, target.__doc__)]
    lines = [f"  {key}: {value}" for key, value in facts.items() if value]
    return "\n".join([name, *(f"  {text}" for text in words if text), *lines])


def _read(card: Card) -> str:
    return f"samples.{card.reads}{', at any noise level' if card.noisy else ''}" if card.reads else "anything, or not stated"


def climb(name: str) -> Climb:
    """Score a reward's ladder, with the arguments that it has by default."""
    try:
        scorer = Scorer({name: RewardConfig(use=name)})
        ladder = scorer.cards[name].ladder
        rungs = list(ladder()) if ladder else [noisy(photos(), 0.2), photos()]
        begin = time.perf_counter()
        scores = [scorer(rung)[name] for rung in rungs]
    except UserError as error:
        return Climb(name, [], False, False, 0.0, str(error))
    seconds = (time.perf_counter() - begin) / sum(len(rung) for rung in rungs)
    means = [float(values.mean()) for values in scores]
    least = rounding(np.concatenate(scores))
    right = (np.diff(means) > least).all() if ladder else np.ptp(np.concatenate(scores)) > least
    return Climb(name, means, ladder is not None, bool(right), seconds)


def table(climbs: Sequence[Climb]) -> str:
    """Markdown; below it, what did not run and why."""
    rows = [_row(climb) for climb in climbs if climb.means]
    heading = ("reward", "mean scores, worst samples first", "right order", "ms per sample")
    lines = [markdown_table([heading, *rows])] if rows else []
    return "\n".join([*lines, *(f"not run: {climb.reward}: {climb.remark}" for climb in climbs if not climb.means)])


def _row(climb: Climb) -> tuple[str, str, str, str]:
    means = (" < " if climb.ladder and climb.right else ", ").join(f"{mean:.3g}" for mean in climb.means)
    verdict = "**no**" if not climb.right else "yes" if climb.ladder else "not constant"
    return f"`{climb.reward}`", means, verdict, f"{1000 * climb.seconds:.1f}"
