"""The weights at which schemes are measured: a model's own, or those of a run's checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.policies.protocol import Policy
from flowgrpo.runs.checkpoint import load_state
from flowgrpo.runs.folder import PREFIX, RunFolder
from flowgrpo.training.credit.schemes import Scheme


@dataclass(frozen=True)
class Point:
    """`updates` is how many these weights have had, `spread` and `memory` what their run knew of its rewards
    (`training.allocation`, `objective.memory`)."""

    name: str = "the model as it is"
    updates: int = 0
    spread: Mapping[str, Any] = field(default_factory=lambda: {"steps": {}, "prompts": {}})
    memory: Mapping[str, Any] = field(default_factory=dict)


def policies_at(
    schemes: Sequence[Scheme], checkpoint: Path | None, device: torch.device, policy: Policy | None = None
) -> tuple[list[Policy], Point]:
    """A policy for each scheme, all with the same weights; one policy where the schemes' sections agree.

    `policy` is the first scheme's where it is given. Errors: UserError where the weights don't fit together.
    """
    configs = [scheme.config.policy for scheme in schemes]
    first = policy or configs[0].build(device, schemes[0].config.seed)
    point = _load(first, checkpoint) if checkpoint else Point()
    built = [(configs[0], first)]
    for scheme, config in zip(schemes, configs, strict=True):
        if all(config != known for known, _ in built):
            other = config.build(device, scheme.config.seed)
            _set(other, dict(first.trainable()), f"{scheme.name} trains other weights than {schemes[0].name}, so")
            built.append((config, other))
    return [next(made for known, made in built if known == config) for config in configs], point


def _load(policy: Policy, path: Path) -> Point:
    checkpoint = path
    if not path.name.startswith(PREFIX):
        checkpoints = RunFolder(path).checkpoints
        if not checkpoints:
            raise UserError(f"{path} is no checkpoint and no run folder with one; name a folder checkpoint-N of a run")
        checkpoint = checkpoints[-1]
    tensors, facts = load_state(checkpoint, ["trainable"])
    _set(policy, tensors["trainable"], f"{checkpoint} is of another model:")
    return Point(str(checkpoint), facts["updates"], facts.get("spread", Point().spread), facts.get("memory", {}))


@torch.no_grad()
def _set(policy: Policy, values: Mapping[str, Tensor], why: str) -> None:
    parameters = policy.trainable()
    if {name: p.shape for name, p in parameters.items()} != {name: value.shape for name, value in values.items()}:
        raise UserError(f"{why} their tensors differ in name or size; measure both apart, each with its own recipe")
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
