"""Models by their names."""

from pathlib import Path
from typing import Any

from flowgrpo.config.source import read_source
from flowgrpo.core.processes import Processes
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.policies.masked._policy import MaskedPolicy

LoadedPolicy = DiffusersPolicy | MaskedPolicy


def load_policy(source: str | Path, *overrides: str, seed: int = 0) -> Any:
    """The policy of a shipped model, a recipe, a config file, a pipeline folder or a hub id, with what is to be trained attached.

    `overrides` are `a.b=c`, as `flowgrpo sample` takes them. Errors: UserError where there is no such model.

    >>> policy = load_policy("mini", "policy.lora.rank=4")
    >>> policy.config.steps, sum(p.numel() for p in policy.trainable().values()) > 0
    (3, True)
    """
    return read_source(str(source), overrides).policy.build(Processes.alone().device, seed)
