"""Which schemes are measured: recipes on one model, or a standard set built on its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowgrpo.config.recipes import name_of, words_of
from flowgrpo.config.run import Config, load_config
from flowgrpo.core.errors import UserError


@dataclass(frozen=True)
class Scheme:
    """A config with the name that it has in the tables."""

    name: str
    config: Config


@dataclass(frozen=True)
class LeftOut:
    """A scheme that is not measured, and why."""

    name: str
    reason: str


def named(model: str, methods: Sequence[str], overrides: Sequence[str]) -> list[Scheme]:
    """`MODEL METHOD` of each method, a name or a file, as `flowgrpo train` reads it. Errors: UserError for one that is none."""
    schemes = [Scheme(name_of(method), load_config([*words_of(model), *words_of(method)], overrides)) for method in methods]
    if twice := next((s.name for i, s in enumerate(schemes) if s.name in [other.name for other in schemes[:i]]), None):
        raise UserError(f"'{twice}' is named twice; give each scheme once, or rename one of the files")
    return schemes


def require_comparable(schemes: Sequence[Scheme]) -> None:
    """Errors: UserError where two schemes are no answers to one question: other prompts, rewards or weights."""
    first = schemes[0]
    for scheme in schemes[1:]:
        for what, one, other in (
            ("rollout.prompts", first.config.rollout.prompts, scheme.config.rollout.prompts),
            ("rewards", first.config.rewards, scheme.config.rewards),
        ):
            if one != other:
                raise UserError(
                    f"{scheme.name} and {first.name} differ in {what}, so their gradients are of two aims; give both the same"
                )
