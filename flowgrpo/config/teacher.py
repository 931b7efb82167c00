"""Which policy a teacher is."""

from pathlib import Path
from typing import cast

from flowgrpo.config.run import Config, load_config
from flowgrpo.config.tree import merge
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked, class_of
from flowgrpo.policies import PolicyConfig


def teaching(config: Config) -> PolicyConfig:
    """That of the checkpoint's run, or else the run's own, with what `teacher.policy` says. It takes as many steps as the policy.

    Errors: UserError where there is no such checkpoint, or the policy is none.
    """
    assert config.teacher is not None
    known = config_of_run(config.teacher.checkpoint).policy if config.teacher.checkpoint else config.policy
    tree = merge(known.model_dump(mode="json"), config.teacher.policy)
    chosen = cast(type[PolicyConfig], class_of(str(tree["type"]), PolicyConfig))
    return checked(chosen, {**tree, "steps": config.policy.steps}, "teacher.policy")


def config_of_run(checkpoint: str) -> Config:
    """That of the run whose checkpoint it is."""
    file = Path(checkpoint) / "config.yaml"
    if not file.is_file():
        raise UserError(f"teacher.checkpoint: {checkpoint} is no checkpoint of a run, such as runs/RUN/checkpoint-000080")
    return load_config(str(file))
