"""One resolver for everything that is named in a config: kernels, plans, credit rules, policies and rewards."""

import ast
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.sources import forget_changed, look_anew, source_digest, user_module

T = TypeVar("T")


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


def resolve(spec: str, package: str, known: Iterable[str] = ()) -> tuple[ModuleType, str | None]:
    """Find the module that `spec` names, and the attribute in it (None when the spec names none).

    `name` or `name:attr` is a module of `package` or an entry point of its group (`flowgrpo.` and the last word of the
    package: `flowgrpo.rewards`, `flowgrpo.credit`, `flowgrpo.kernels` ...), `path/to/file.py:attr` a file, `module:attr` any
    importable module (the current folder included). A name that is none of all that is refused, with the nearest of the
    `known` (by default the package's modules).
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
        raise UserError(f"unknown name '{spec}' ({nearest(spec, known or built_in_names(package))})")
    return import_user_module(name), attr


def load_file(path: Path) -> ModuleType:
    """The module in a file as it is now. What has the same place and source, imports included, is loaded once."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    source = path.resolve()
    name = f"flowgrpo_user_{path.stem}_{digest_of([str(source), source_digest(source)])[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    forget_changed(source)
    spec = importlib.util.spec_from_loader(name, _AsItIs(name, str(source)))
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
    look_anew()
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
    if name not in vars(module) and module.__name__ == "__main__":
        raise UserError(
            f"'{spec}' was made in a notebook or script that does not run here; put it into a file, as file.py:{name}"
        )
    if name not in vars(module):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"'{spec}': there is no '{name}' in it ({nearest(name, public)})")
    return vars(module)[name]


def component_class(spec: str, base: type[T], package: str) -> type[T]:
    """The subclass of `base` that `spec` names; a file or module named without attribute defines exactly one."""
    if spec in (known := shipped(package)):
        module, attr = importlib.import_module(known[spec].module), known[spec].name
    else:
        module, named = resolve(spec, package, known)
        attr = named or _only(module, spec, base)
    chosen = attribute(module, attr, spec)
    if not (isinstance(chosen, type) and issubclass(chosen, base)):
        raise UserError(f"'{spec}' is not a {base.__name__}")
    return chosen


def _only(module: ModuleType, spec: str, base: type) -> str:
    """The name of the component in a module: the public class, or of several public ones the one that lacks nothing."""
    fitting = [name for name, value in vars(module).items() if _is_own(value, module) and issubclass(value, base)]
    public = [name for name in fitting if not name.startswith("_")]
    whole = [name for name in public if not inspect.isabstract(vars(module)[name])] or public
    if not whole:
        raise UserError(f"'{spec}' holds no {base.__name__}; it must define a subclass of it")
    if len(whole) > 1:
        choice = " or ".join(f"'{spec}:{name}'" for name in whole)
        raise UserError(f"'{spec}' holds {len(whole)} components of the kind {base.__name__}; say which: {choice}")
    return whole[0]


def _is_own(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


@dataclass(frozen=True)
class Shipped:
    """A class in one of flowgrpo's own modules, not imported yet."""

    module: str
    name: str


@cache
def shipped(package: str) -> dict[str, Shipped]:
    """The components of one of flowgrpo's plug-in packages by the names that a config uses; read from the sources, so that
    nothing is imported.

    A component that is alone in its file is named like the file, and those that share a file by their classes:
    `LowConfidence` is low_confidence. What is in files with a leading underscore helps others.
    """
    classes = {module: _classes(file) for module, file in _files(package).items()}
    bases = {name: parents for defined in classes.values() for name, parents in defined.items()}
    components: dict[str, Shipped] = {}
    for module, defined in classes.items():
        names = [name for name in defined if not name.startswith("_") and _descends(name, bases)]
        for name in names if module and not module.startswith("_") else ():
            spec = module if len(names) == 1 else snake_case(name)
            if spec in components:
                raise UserError(f"two components of {package} are called '{spec}', one of them in {module}.py; rename it")
            components[spec] = Shipped(f"{package}.{module}", name)
    return dict(sorted(components.items()))


def _files(package: str) -> dict[str, Path]:
    """The package's own file under the name '', and those of its modules and packages."""
    folder = Path(str(files(package)))
    below = {file.stem: file for file in folder.glob("*.py") if file.stem != "__init__"}
    return {"": folder / "__init__.py", **below, **{file.parent.name: file for file in folder.glob("*/__init__.py")}}


def _classes(file: Path) -> dict[str, list[str]]:
    """The names of the bases of each class in a file."""
    tree = ast.parse(file.read_bytes())
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases] for node in defined}


def _descends(name: str, bases: dict[str, list[str]]) -> bool:
    return any(base == "Component" or _descends(base, bases) for base in bases.get(name, ()))


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def name_of(component: type, package: str) -> str:
    """How a config names a class: the name of what ships, `file.py:Class`, or `module:Class` (`__main__:Class` in a notebook)."""
    this = Shipped(component.__module__, component.__name__)
    if name := next((name for name, known in shipped(package).items() if known == this), None):
        return name
    module = sys.modules[component.__module__]
    where = module.__file__ if isinstance(vars(module).get("__loader__"), _AsItIs) else module.__name__
    return f"{where}:{component.__qualname__}"


def components_of(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a plug-in package: its component classes, imported when they are asked for."""
    classes = {known.name: known for known in shipped(package).values()}

    def attribute(name: str) -> Any:
        if name not in classes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(classes[name].module), name)

    return attribute, lambda: sorted(classes)
