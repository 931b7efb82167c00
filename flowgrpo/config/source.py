"""The model that a user names to generate with: a shipped one, that of a config or recipe, or a pipeline as it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowgrpo.config.recipes import models, names, read_recipe
from flowgrpo.config.run import load_config
from flowgrpo.config.tree import with_overrides
from flowgrpo.core.paths import locate
from flowgrpo.core.section import Section, checked
from flowgrpo.policies import AnyPolicy, PolicyConfig
from flowgrpo.policies.diffusers import DiffusersConfig

HELP = "a shipped model, a config or recipe (its model and call), or a pipeline folder or hub id"
STEPS = 28
BATCH = 8


@dataclass(frozen=True)
class Source:
    """A policy, and in how many steps and how many at once it makes samples."""

    policy: PolicyConfig
    steps: int
    batch: int


class Model(Section):
    """What a config says of its model alone."""

    policy: AnyPolicy


def read_source(source: str, overrides: Sequence[str], steps: int | None = None) -> Source:
    """`a.b=c` overrides are of the config (of its policy alone where `source` is a shipped model), or, where it is a pipeline, of
    the policy.

    Without `steps`, a config's are those of its held-out evaluation, and a pipeline's are 28.
    """
    if _is_pipeline(source):
        tree = with_overrides({"model": source, "steps": steps or STEPS}, overrides)
        pipeline = checked(DiffusersConfig, tree, source)
        return Source(pipeline, pipeline.steps, BATCH)
    if source in models():
        tree = read_recipe(source).tree
        policy = checked(Model, with_overrides({"policy": tree["policy"]}, overrides), source).policy
        return Source(policy, steps or tree.get("evaluation", {}).get("steps", policy.steps), BATCH)
    config = load_config(source, overrides)
    if config.evaluation is None:
        return Source(config.policy, steps or config.policy.steps, BATCH)
    return Source(config.policy, steps or config.evaluation.steps, config.evaluation.batch)


def _is_pipeline(source: str) -> bool:
    """A folder that is one, or an id of the hub: OWNER/NAME that is no file, and no recipe or slip in one."""
    if (locate(source) / "model_index.json").is_file():
        return True
    looks_like_an_id = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.endswith((".yaml", ".yml"))
    return bool(looks_like_an_id) and not Path(source).exists() and source.partition("/")[0] not in names()
