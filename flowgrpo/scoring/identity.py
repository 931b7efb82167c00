"""What a reward's scores depend on beside the samples, so that scores of two rewards are never taken for those of one."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.digests import digest
from flowgrpo.core.held import OBJECT, fingerprint_of
from flowgrpo.core.identity import named, this_flowgrpo
from flowgrpo.core.plugins import resolve
from flowgrpo.core.sources import source_digest, user_module
from flowgrpo.scoring.scorer import PACKAGE
from flowgrpo.scoring.serving.client import Served


def identity(config: RewardConfig) -> dict[str, Any]:
    """Name and arguments; the code, with what it imports of the user's; files and folders that arguments name; flowgrpo itself.

    Of a served reward: what its server says that it is.
    """
    stated = config.model_dump(mode="json", include={"use", "url", "arguments"}, exclude_none=True)
    if config.url is not None:
        return {
            **stated,
            "served": Served(config.url, config.timeout, config.token).health.fingerprint,
            "flowgrpo": this_flowgrpo(),
        }
    assert config.use is not None
    held = config.use.startswith(OBJECT)
    code = fingerprint_of(config.use) if held else _code(config.use, resolve(config.use, PACKAGE)[0])
    return {**stated, "code": code, "files": named(config.arguments), "flowgrpo": this_flowgrpo()}


def _code(use: str, module: ModuleType) -> str | None:
    """Nothing for what ships; the whole package of a reward that is installed."""
    name, top = module.__name__, module.__name__.partition(".")[0]
    if top == "flowgrpo":
        return None
    assert module.__file__ is not None
    if use.rpartition(":")[0].endswith(".py") or use.endswith(".py"):
        return source_digest(Path(module.__file__))
    if user_module(name) is None and "__path__" in vars(sys.modules[top]):
        return digest(Path(sys.modules[top].__path__[0]))
    return source_digest(Path(module.__file__), name)
