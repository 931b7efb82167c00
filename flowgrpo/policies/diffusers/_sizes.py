"""The sizes of a run's pictures: one for all, or one of several for each prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from flowgrpo.data.prompts import Prompt

SIZES = "sizes"
"""The entry of `policy.call` that lists them, as [height, width]; it is no argument of the pipeline."""


class Size(NamedTuple):
    """In pixels."""

    height: int
    width: int


def size_of(call: dict[str, Any], prompt: "Prompt") -> Size | None:
    """Drawn for the prompt's row, the same whenever it is asked for; None where there is no choice."""
    if not (sizes := call.get(SIZES)):
        return None
    from flowgrpo.core.keys import numpy_generator

    return Size(*sizes[numpy_generator((SIZES, prompt.index)).integers(len(sizes))])


def sized(call: dict[str, Any], prompts: "Sequence[Prompt]") -> dict[str, Any]:
    """The call for prompts of one size."""
    size = size_of(call, prompts[0])
    return {**{key: value for key, value in call.items() if key != SIZES}, **(size._asdict() if size else {})}


def complaint(call: dict[str, Any]) -> str | None:
    """What is wrong with the sizes."""
    sizes = call.get(SIZES)
    if sizes is None:
        return None
    pairs = isinstance(sizes, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in sizes)
    if not (pairs and sizes and all(isinstance(side, int) and side > 0 for pair in sizes for side in pair)):
        return f"call.sizes must list pairs of height and width, such as [[512, 512], [768, 432]], not {sizes}"
    if named := [key for key in ("height", "width") if call.get(key) is not None]:
        return f"call.sizes takes the place of call.{named[0]}; leave one of them out (set it to null)"
    return None
