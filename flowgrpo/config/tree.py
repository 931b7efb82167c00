"""Sections as trees: YAML and `a.b=c` overrides."""

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from flowgrpo.core.errors import UserError, short
from flowgrpo.core.section import KeyPath

NAMES = ("use", "url", "reward", "judge", "detector")
"""What names whoever the `arguments` beside it are for."""


def merge(base: dict[str, Any], over: dict[str, Any], at: KeyPath = ()) -> dict[str, Any]:
    """`over` on top of `base`, section by section; a section with another `type` replaces the base's whole, and a reward of
    another name takes over none of the `arguments`. A reward that is null is taken out.
    """
    merged = dict(base)
    for key, value in over.items():
        if _takes_out(merged, at, key, value):
            continue
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and value.get("type", below.get("type")) == below.get("type"):
            here = (*at, key)
            stale = here[0] == "rewards" and len(here) > 1
            merged[key] = merge(_without_stale(below, value) if stale else below, value, here)
        else:
            merged[key] = value
    return merged


def _takes_out(section: dict[str, Any], where: KeyPath, key: str, value: Any) -> bool:
    """Whether null stands for a reward of the section, which is gone then; `where` is the section's place."""
    return value is None and tuple(where) == ("rewards",) and section.pop(key, None) is not None


def without(tree: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


def _without_stale(below: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What a reward, or the arguments of one that works with another, can take over from a base."""
    renamed = [name for name in NAMES if name in value and value[name] != below.get(name)]
    stale = {"arguments", "use", "url"} if {"use", "url"} & {*renamed} else {"arguments"} if renamed else set()
    return without(below, *stale)


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
    if not text.strip():
        raise UserError(f"override '{override}' has no value; write {path}=null for none, or {path}=\"''\" for an empty text")
    *sections, key = path.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise UserError(f"override '{override}': '{section}' is not a section")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"override '{short(override)}': the value is not valid YAML ({yaml_says(error)})") from error
    if not _takes_out(tree, tuple(sections), key, value):
        tree[key] = value


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
