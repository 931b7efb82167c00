"""What a reward says of itself: what it reads, its range, what a high score means, licence, source."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from flowgrpo.core.errors import UserError
from flowgrpo.data.kinds import Reads
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples

T = TypeVar("T", bound=Callable)
EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Card:
    """Higher is always better; `better` says in which sense.

    `reads` is what of the samples is judged (None: anything, or not stated): "latents" are the states that samples are decoded
    from, so that nothing needs to be decoded for them, and where it is `noisy` too, the reward scores states at any noise level.
    `row` is what a prompt row must hold beside the prompt; one that `compares` needs several samples of a prompt. `ladder` makes
    samples from what ships with flowgrpo, in lists from worst to best: the mean score must rise from each to the next.
    A `differentiable` one returns a tensor with the gradient in the pixels or latents that it was given, each sample's score a
    function of that sample alone.
    `check(reward, prompt)` raises a UserError where the row of a prompt does not hold what the reward needs; all rows are checked
    before a run begins.
    """

    reads: Reads | None
    range: tuple[float, float]
    better: str
    licence: str
    source: str
    row: str = ""
    compares: bool = False
    ladder: Callable[[], Sequence[Samples]] | None = None
    check: Callable[[Any, Prompt], object] | None = None
    noisy: bool = False
    differentiable: bool = False


UNSTATED = Card(None, EVERYTHING, "not stated", "not stated", "not stated")
_cards: dict[Callable, Card] = {}


def card(
    *,
    reads: Reads | None,
    range: tuple[float, float],
    better: str,
    licence: str,
    source: str,
    row: str = "",
    compares: bool = False,
    ladder: Callable[[], Sequence[Samples]] | None = None,
    check: Callable[[Any, Prompt], object] | None = None,
    noisy: bool = False,
    differentiable: bool = False,
) -> Callable[[T], T]:
    """Decorates a reward, function or class, with its card. A reward without one works as well; less can be checked then."""

    if noisy and reads != "latents":
        raise UserError(
            f"a card with noisy=True has reads='latents', not {reads!r}: only latents can be judged while they are noisy"
        )
    if differentiable and (compares or reads not in ("images", "videos", "latents")):
        raise UserError("a card with differentiable=True has reads='images', 'videos' or 'latents', and compares no samples")

    def state(target: T) -> T:
        _cards[target] = Card(reads, range, better, licence, source, row, compares, ladder, check, noisy, differentiable)
        return target

    return state


def card_of(target: Callable) -> Card:
    return _cards.get(target, UNSTATED)
