"""A policy over the tiny masked-diffusion language model, and laws over no model at all.

C transitions, L positions to fill, V ids.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgrpo.core.keys import Noise, torch_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked._policy import MaskedPolicy
from flowgrpo.sampling.canvas import DRAWN, NOTHING, TOKENS, Vocabulary, canvas
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import UnmaskingKernel
from flowgrpo.sampling.kernels.orders import LowConfidence
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "1+2=:"), Prompt(1, "7:"), Prompt(2, "4+4=:")]


def config_of(folder: Path, **options: Any) -> MaskedConfig:
    """Room for 5 ids of a prompt and 6 more, in 3 steps."""
    defaults = {"steps": 3, "prompt_length": 5, "length": 6, "sampler": LowConfidence(temperature=0.0)}
    return MaskedConfig(**{"model": str(folder), **defaults, **options})


def build(folder: Path, **options: Any) -> MaskedPolicy:
    return config_of(folder, **options).build(CPU, 0)


def nudge(policy: MaskedPolicy) -> None:
    """Zero-initialised LoRA factors would make half of the gradients zero."""
    with torch.no_grad():
        for i, parameter in enumerate(policy.trainable().values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch_generator(("nudge", i)))


BARE = Vocabulary(size=7, mask=5, pad=6)
"""Five ids to emit, and no end of text."""
ENDING = Vocabulary(size=7, mask=5, pad=6, eos=4)


def some_logits(rows: int, length: int, key: int | str = 0, vocabulary: Vocabulary = BARE) -> Tensor:
    """[C, L, V], -inf for mask and padding."""
    logits = 2.0 * torch.randn(rows, length, vocabulary.size, generator=torch_generator(("logits", key)))
    logits[..., [vocabulary.mask, vocabulary.pad]] = -torch.inf
    return logits


def law_of(kernel: UnmaskingKernel, source: int, target: int, steps: int, logits: Tensor, vocabulary: Vocabulary) -> UnmaskingLaw:
    rows, length = logits.shape[:2]
    return UnmaskingLaw((Move(kernel, source, target),) * rows, steps, length, vocabulary, CPU)


def empty(rows: int, length: int, vocabulary: Vocabulary = BARE) -> Tensor:
    """States with a prompt of two ids and everything else masked."""
    return canvas(torch.tensor([[0, 1, *[vocabulary.mask] * length]] * rows))


def move(
    kernel: UnmaskingKernel,
    x: Tensor,
    logits: Tensor,
    source: int,
    target: int,
    steps: int,
    key: int | str = 0,
    vocabulary: Vocabulary = BARE,
) -> Tensor:
    """One transition of every state."""
    law = law_of(kernel, source, target, steps, logits, vocabulary)
    return law.sample(x, logits, [Noise((key, source, i)) for i in range(len(x))], [None] * len(x))


def unmask(
    kernel: UnmaskingKernel, logits: list[Tensor], length: int, key: int | str = 0, vocabulary: Vocabulary = BARE
) -> list[Tensor]:
    """A whole rollout, `logits[s]` at step s: S + 1 states."""
    states = [empty(len(logits[0]), length, vocabulary)]
    for step, at in enumerate(logits):
        states.append(move(kernel, states[-1], at, step, step + 1, len(logits), key, vocabulary))
    return states


def tokens_of(x: Tensor, length: int) -> Tensor:
    return x[:, TOKENS, -length:].long()


def drawn_of(x: Tensor, length: int) -> Tensor:
    """[C, L] booleans: where the last step drew."""
    return x[:, DRAWN, -length:] != NOTHING


def masks_of(x: Tensor, length: int, vocabulary: Vocabulary = BARE) -> Tensor:
    return tokens_of(x, length) == vocabulary.mask
