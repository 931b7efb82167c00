"""Sections as trees: YAML files with their bases, `a.b=c` overrides, and what is wrong with them in one sentence."""

import copy
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from flowgrpo.core.errors import UserError, short
from flowgrpo.core.paths import find_base, find_config
from flowgrpo.core.section import Section, UnknownKey

S = TypeVar("S", bound=Section)
NAMES = ("use", "url", "reward", "judge", "detector")
"""What names whoever the `arguments` beside it are for."""
Place = tuple[int | str, ...]
"""A key, and the keys of the sections around it."""


def read(section: type[S], source: str, overrides: Sequence[str]) -> S:
    """A file or recipe with its bases and overrides, checked. An error in a base names the base."""
    path = find_config(source)
    try:
        return section.model_validate(with_overrides(read_tree(path), overrides))
    except ValidationError as error:
        where, message, key = _first_error(error)
        base = None if _overridden((*where, *key), overrides) else _holder(path, (*where, *key))
        of = source if base in (None, path) else f"{base}, a base of {source}"
        raise UserError(_sentence(of, where, message)) from error


def checked(section: type[S], tree: dict[str, Any], source: str) -> S:
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        where, message, _ = _first_error(error)
        raise UserError(_sentence(source, where, message)) from error


def _sentence(source: str, where: Place, message: str) -> str:
    return ": ".join(filter(None, [source, ".".join(map(str, where)), message]))


def _first_error(error: ValidationError, prefix: Place = ()) -> tuple[Place, str, Place]:
    """Where it is, what it is, and the key that is unknown there, if it is that."""
    first = error.errors()[0]
    where = prefix + first["loc"]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ValidationError):
        return _first_error(inner, where)
    key = (inner.key,) if isinstance(inner, UnknownKey) else ()
    return where, str(inner) if inner else first["msg"], key


def _overridden(where: Place, overrides: Sequence[str]) -> bool:
    """Whether an override sets this place, or a section around it."""
    path = ".".join(map(str, where)) + "."
    return any(path.startswith(override.partition("=")[0] + ".") for override in overrides)


def _holder(path: Path, where: Place) -> Path | None:
    """Of a file and its bases, the first that has this place."""
    tree = parse_yaml(path.read_text(encoding="utf-8"))
    if where and _holds(tree, where):
        return path
    return _holder(find_base(path, tree["base"]), where) if tree.get("base") else None


def _holds(tree: Any, where: Place) -> bool:
    """To the end of the place, or to a value that can't be gone into."""
    if not where or not isinstance(tree, dict):
        return True
    return where[0] in tree and _holds(tree[where[0]], where[1:])


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The sections of a YAML file on top of those of its bases, unchecked. `above` are the files that it is a base of."""
    if path.resolve() in above:
        names = " -> ".join(file.name for file in (*above, path))
        raise UserError(f"{path}: it is a base of itself ({names}); take the `base:` out of one of them")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({yaml_says(error)})") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping of sections")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base: must be the name of a file or a shipped recipe, not {base}")
    return _merge(read_tree(find_base(path, base), (*above, path.resolve())), tree)


def _merge(base: dict[str, Any], over: dict[str, Any], place: Place = ()) -> dict[str, Any]:
    """`over` on top of `base`, section by section; a section with another `type` replaces the base's whole, and a reward of
    another name takes over none of the `arguments`.
    """
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and value.get("type", below.get("type")) == below.get("type"):
            at = (*place, key)
            merged[key] = _merge(_without_stale(below, value) if at[0] == "rewards" and len(at) > 1 else below, value, at)
        else:
            merged[key] = value
    return merged


def _without_stale(below: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What a reward, or the arguments of one that works with another, can take over from a base."""
    renamed = [name for name in NAMES if name in value and value[name] != below.get(name)]
    stale = {"arguments", "use", "url"} if {"use", "url"} & {*renamed} else {"arguments"} if renamed else set()
    return {key: entry for key, entry in below.items() if key not in stale}


def with_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A deep copy of the tree with the `a.b=c` overrides set."""
    tree = copy.deepcopy(tree)
    for override in overrides:
        _override(tree, override)
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign or not path:
        raise UserError(f"override '{override}' must look like section.key=value")
    *sections, key = path.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise UserError(f"override '{override}': '{section}' is not a section")
    try:
        tree[key] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"override '{short(override)}': the value is not valid YAML ({yaml_says(error)})") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: 1e-4 is a number, which PyYAML alone reads as text. No key twice, no NaN and no infinity."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' is there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(None, None, f"{node.value} is not a finite number", node.start_mark)
        return value


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def parse_yaml(text: str) -> Any:
    """Errors: yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("brackets are nested too deep") from error


def yaml_says(error: Exception) -> str:
    """What is wrong with a YAML text, and where."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    return f"{error.problem}, line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
