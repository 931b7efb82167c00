"""One resolver for everything that is named in a config: kernels, plans, credit rules, policies and rewards."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.sources import forget_changed, source_digest, user_module


def nearest(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'x'?"` for a misspelt name, followed by the known ones."""
    known = sorted(known)
    return f"{meant(name, known)}known: {', '.join(known)}"


def meant(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'? "` for a misspelt name; nothing where none is near."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""


def built_in_names(package: str) -> list[str]:
    """Modules of a plug-in package; names with a leading underscore are not plug-ins."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


def resolve(spec: str, package: str) -> tuple[ModuleType, str | None]:
    """Find the module that `spec` names, and the attribute in it (None when the spec names none).

    `name` or `name:attr` is a module of `package` or an entry point of its group (`flowgrpo.` and the last word of the
    package: `flowgrpo.rewards`, `flowgrpo.credit`, `flowgrpo.kernels` ...), `path/to/file.py:attr` a file, `module:attr` any
    importable module (the current folder included).
    """
    name, _, attr = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if name.endswith(".py"):
        return load_file(Path(name)), attr or None
    if name in built_in_names(package):
        return importlib.import_module(f"{package}.{name}"), attr or None
    for group in dict.fromkeys((f"flowgrpo.{package.split('.')[-1]}", package)):
        for entry in entry_points(group=group, name=spec):
            return import_user_module(entry.module), entry.attr
    if not attr:
        raise UserError(f"unknown name '{spec}' ({nearest(spec, built_in_names(package))})")
    return import_user_module(name), attr


def load_file(path: Path) -> ModuleType:
    """The module in a file as it is now. What has the same place and source, imports included, is loaded once."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    place = path.resolve()
    name = f"flowgrpo_user_{path.stem}_{digest_of([str(place), source_digest(place)])[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    forget_changed(place)
    spec = importlib.util.spec_from_loader(name, _AsItIs(name, str(place)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with user_code(f"{path} can't be imported: it"):
            spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    return module


class _AsItIs(SourceFileLoader):
    """Compiles the source: Python's own cache goes by a time in seconds and a size."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def import_user_module(name: str) -> ModuleType:
    """A module by its name, as it is now if it is the user's own."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    if file := user_module(name):
        forget_changed(file, name)
    try:
        with user_code(f"module '{name}' can't be imported: it", but=ModuleNotFoundError):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise UserError(f"module '{name}' can't be imported: it imports '{error.name}', which is not installed") from error
        raise UserError(f"no module named '{name}' can be imported from here") from error


def attribute(module: ModuleType, name: str, spec: str) -> Any:
    if name not in vars(module):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"'{spec}': there is no '{name}' in it ({nearest(name, public)})")
    return vars(module)[name]


def component_class(spec: str, base: type, package: str) -> type:
    """The subclass of `base` that `spec` names; a module named without attribute defines exactly one."""
    module, attr = resolve(spec, package)
    if attr is not None:
        found = attribute(module, attr, spec)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(f"'{spec}' is not a {base.__name__}")
        return found
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    fitting = [c for c in own if issubclass(c, base)]
    if len(fitting) != 1:
        raise UserError(f"'{spec}' holds {len(fitting)} components of the kind {base.__name__}, and must hold one")
    return fitting[0]
