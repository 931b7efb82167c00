"""Modules that have moved: the old names import until version GOES, each with a warning."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

GOES = "0.3.0"
"""With this version what is old goes: names, config keys, options."""
ROOMS = {
    "core": ("errors", "plugins", "section", "paths", "progress", "processes", "intervals", "sampling.keys"),
    "data": ("prompts", "samples", "media"),
    "sampling": ("likelihood",),
    "sampling.laws": ("sampling.gaussian", "sampling.unmasking"),
    "objective": ("credit", "selection"),
    "config": ("bill", "source"),
    "scoring": ("serving",),
    "evaluation": ("benchmarks", "sheet"),
    "runs": ("study",),
    "training": (
        *("trainer", "ema", "calibration", "scored", "conformance"),
        *("sampling.rollout", "scoring.sentinels", "runs.tree"),
    ),
}
MOVED = {f"flowgrpo.{old}": f"flowgrpo.{room}.{old.split('.')[-1]}" for room, names in ROOMS.items() for old in names}
MOVED |= {"flowgrpo.sandbox": "flowgrpo.rewards._sandbox"}
MOVED |= dict.fromkeys(("flowgrpo.gate", "flowgrpo.training.gate"), "flowgrpo.training.on_policy")
ORDERS = ("low_confidence", "maskgit_plus", "margin", "entropy", "maskgit", "random_order", "left_to_right", "origin")
MOVED |= {f"flowgrpo.sampling.kernels.{name}": "flowgrpo.sampling.kernels.orders" for name in ORDERS}
"""Old names of modules and packages; what is below a package has moved with it."""


def warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with version {GOES}", FutureWarning, stacklevel=3)


class _Moved(MetaPathFinder, Loader):
    """Imports the module at its new place under its old name too."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if _today(name) else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        new = _today(name)
        assert new is not None
        if name in MOVED:
            warn(name, new)
        sys.modules[name] = importlib.import_module(new)


def _today(name: str) -> str | None:
    """Where a module is that had this name, or is below one that had."""
    parts = name.split(".")
    heads = (".".join(parts[:k]) for k in range(len(parts), 1, -1))
    old = next((head for head in heads if head in MOVED), None)
    return None if old is None else MOVED[old] + name[len(old) :]


def install() -> None:
    """Before all other finders: they would load what is below a moved package a second time."""
    sys.meta_path.insert(0, _Moved())


def names_of(package: str, module: str, *names: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that was a module: these `names` of it are in `module` now."""

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        warn(f"{package}.{name}", f"{module}.{name}")
        return getattr(importlib.import_module(module), name)

    return attribute
