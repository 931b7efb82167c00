"""The source of a user's code: a file and those of the user's modules that it imports, and what Python still holds of them.

What is installed, and flowgrpo itself, are not the user's.
"""

import ast
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import FileFinder, ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path

from flowgrpo.core.digests import digest, digest_of

INSTALLED = ("site-packages", "dist-packages")
_held: dict[str, str] = {}
"""The digest of each user's module when it was loaded."""


def look_anew() -> None:
    """Let Python see the modules that were written since it last listed their folders.

    Its own `importlib.invalidate_caches` fails when another thread imports something meanwhile.
    """
    for finder in sys.path_importer_cache.copy().values():
        if isinstance(finder, FileFinder):
            finder.invalidate_caches()


def user_modules(file: Path, name: str = "") -> dict[str, Path]:
    """The user's modules that a Python file imports, and those that they import, by name; imports inside of functions too.

    `name` is what the file itself is imported by, if it is: then it and its packages are among them.
    """
    look_anew()
    modules = dict(_resolved(name))
    waiting = [(file, _package(name, file)), *((path, _package(module, path)) for module, path in modules.items())]
    while waiting:
        for module, path in _imports(*waiting.pop()):
            if module not in modules:
                modules[module] = path
                waiting.append((path, _package(module, path)))
    return modules


def user_module(name: str) -> Path | None:
    """The file of a module that is the user's own, by the name it is imported by; None for any other."""
    return dict(_resolved(name)).get(name)


def source_digest(file: Path, name: str = "") -> str:
    """Of a Python file, which may be imported as `name`, and of all the user's modules that it imports."""
    return digest_of([digest(file), {module: digest(path) for module, path in user_modules(file, name).items()}])


def forget_changed(file: Path, name: str = "") -> None:
    """Let Python import these modules anew if any of them is another file, or holds something else, than when it was loaded."""
    modules = user_modules(file, name)
    loaded = {module: path for module, path in modules.items() if sys.modules.get(module)}
    if any(_is_old(module, path) for module, path in loaded.items()):
        for module, path in loaded.items():
            del sys.modules[module]
            with suppress(PermissionError):  # it goes by a time in seconds and a size, and a folder of others' is seldom edited
                Path(cache_from_source(str(path))).unlink(missing_ok=True)
    _held.update({module: digest(path) for module, path in modules.items()})


def _package(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _is_old(module: str, path: Path) -> bool:
    file = vars(sys.modules[module]).get("__file__")
    return file is None or Path(file).resolve() != path.resolve() or _held.get(module, digest(path)) != digest(path)


def _imports(file: Path, package: str) -> Iterator[tuple[str, Path]]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # said when it is imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _resolved(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from _resolved(f"{base}.{alias.name}" if base else alias.name)


def _resolved(name: str) -> Iterator[tuple[str, Path]]:
    """The modules `a`, `a.b`, `a.b.c` of a dotted name, as far as they are files of the user's; nothing is imported."""
    parts, inside = name.split("."), None
    if parts[0] in sys.stdlib_module_names or parts[0] in ("flowgrpo", "__main__", ""):
        return
    for count in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:count]), inside)
        if spec is None or (spec.origin and any(part in INSTALLED for part in Path(spec.origin).parts)):
            return
        if spec.has_location and spec.origin and spec.origin.endswith(".py"):
            yield spec.name, Path(spec.origin)
        if spec.submodule_search_locations is None:
            return
        inside = list(spec.submodule_search_locations)


def _spec(name: str, inside: list[str] | None) -> ModuleSpec | None:
    return next(filter(None, (finder.find_spec(name, inside) for finder in sys.meta_path)), None)
