"""The teacher of a distillation: a frozen policy that says what it would predict at the states of the trained one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.config.teacher import config_of_run, teaching
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.protocol import Policy, Predicts, trained_by
from flowgrpo.runs.checkpoint import load_state


class Teacher:
    """It predicts at states of the `policy`, whose prompts are like the given one.

    Errors: UserError where it can't be loaded, or does not step as the policy does.
    """

    def __init__(self, config: Config, policy: Policy, prompt: Prompt) -> None:
        assert config.teacher is not None
        self.policy = teaching(config).build(policy.device, config.seed)
        if config.teacher.checkpoint is not None:
            _load(self.policy, Path(config.teacher.checkpoint))
        for parameter in self.policy.trainable().values():
            parameter.requires_grad_(False)
        self.asked: Predicts = trained_by(self.policy)
        _require_alike(config, policy, self.policy, prompt)

    @classmethod
    def of(cls, config: Config, policy: Policy, prompt: Prompt) -> "Teacher | None":
        return cls(config, policy, prompt) if config.teacher else None

    @torch.no_grad()
    def predict(self, states: Tensor, prompts: Sequence[Prompt], step: int) -> Tensor:
        """As `Policy.predict`, without a gradient."""
        return self.asked.predict(states, prompts, step)


@torch.no_grad()
def _load(policy: Policy, checkpoint: Path) -> None:
    """The trained weights of a run's checkpoint, their average where it keeps one."""
    kind = "ema" if config_of_run(str(checkpoint)).ema else "trainable"
    tensors, parameters = load_state(checkpoint, [kind])[0][kind], policy.trainable()
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in parameters.items()}:
        raise UserError(f"teacher.checkpoint: {checkpoint} has trained other weights than those of teacher.policy")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def _require_alike(config: Config, policy: Policy, teacher: Policy, prompt: Prompt) -> None:
    """A prediction means the same to both: they begin at the same state, and go the same steps."""
    key = (config.seed, "teacher")
    if not _equal(*(each.start([prompt], [key])[0] for each in (policy, teacher))):
        raise UserError(
            "teacher: its states are not those of the policy, which begins elsewhere for the same prompt and noise; take a "
            "teacher with the same latents, or the same ids and tokenizer"
        )
    shape = config.shape()
    moves = list(dict.fromkeys(shape.move(i) for i, node in enumerate(shape.nodes) if node.parent is not None))
    laws = [vars(each.law(moves, [prompt] * len(moves))) for each in (policy, teacher)]
    if laws[0].keys() != laws[1].keys() or not all(_equal(laws[0][name], laws[1][name]) for name in laws[0]):
        raise UserError(
            "teacher: what it predicts does not mean the same as what the policy predicts; both need the same noise levels, "
            "kind of prediction and ids"
        )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other)
    return bool(one == other)
