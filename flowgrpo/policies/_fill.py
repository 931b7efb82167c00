"""Fill canvases from start to end, with no tree and nothing kept: how policies over canvases make held-out samples.

Shapes: B states.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from flowgrpo.core.keys import Noise
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._finite import numbers
from flowgrpo.policies.protocol import StepLaw
from flowgrpo.sampling.kernels import Kernel, Move


def fill(
    start: Tensor,
    predict: Callable[[Tensor, Sequence[Prompt], int], Tensor],
    law: Callable[[Sequence[Move]], StepLaw],
    kernel: Kernel,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    steps: int,
) -> Tensor:
    """Final states [B, ...] from these, one seed each."""
    states = start
    for step in range(steps):
        moves = [Move(kernel, step, step + 1)] * len(prompts)
        noises = [Noise(("generate", seed, step)) for seed in seeds]
        states = law(moves).sample(states, numbers(predict(states, prompts, step), step), noises, [None] * len(prompts))
    return states
