"""Prompts from a generator: which function a source names, what it is called with, and whether it returned rows."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from flowgrpo.core.errors import UserError, short, user_code
from flowgrpo.core.paths import ASSET
from flowgrpo.core.plugins import attribute, built_in_names, nearest, resolve
from flowgrpo.data.prompts import is_file, names_file, plain
from flowgrpo.data.prompts._rows import SPLITS
from flowgrpo.data.rows import Row

PACKAGE = "flowgrpo.data.prompts"
MOST = 1_000_000
"""Rows that one source may hold."""


def generated(source: str) -> list[Row]:
    """The rows of `NAME[:SPLIT][?key=value&...]`. Errors: UserError where it is not so."""
    named, _, options = source.partition("?")
    spec, split = _split(named)
    make = _found(spec, source)
    arguments = options_of(options, source, _parameters(make))
    check_count(arguments, source)
    if type(arguments.get("seed", 0)) is not int or arguments.get("seed", 0) < 0:
        raise UserError(f"{source}: seed is a whole number from 0 on, not {arguments['seed']}")
    return _checked(_called(make, {"split": split, **arguments}, source), source)


def _called(make: Callable[..., Any], arguments: Mapping[str, Any], source: str) -> Any:
    try:
        inspect.signature(make).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{source}: it must be a function rows(split, count=..., seed=...): {error}") from error
    with user_code(f"the generator of the prompts '{source}'"):
        try:
            rows = make(**arguments)
            return list(rows) if isinstance(rows, Iterator) else rows
        except UserError as error:
            raise UserError(f"{source}: {error}") from error


def options_of(options: str, source: str, known: Sequence[str] | None, texts: Sequence[str] = ()) -> dict[str, Any]:
    """`key=value&...`: whole numbers and other JSON as such, all else, and `texts`, as text. `known` are the keys (None: any)."""
    try:
        pairs = parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options))
    except ValueError as error:
        raise UserError(f"{source}: what follows '?' must be key=value&key=value") from error
    for key, _ in pairs:
        if known is not None and key not in known:
            raise UserError(f"{source}: unknown key '{key}' ({nearest(key, known)})")
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"{source}: a key is there twice; leave one of them")
    return {key: text if key in texts else _value(text) for key, text in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_count(options: Mapping[str, Any], source: str) -> None:
    count = options.get("count", 1)
    if type(count) is not int or not 1 <= count <= MOST:
        raise UserError(f"{source}: count is how many rows to take, a whole number from 1 to {MOST:,}, not {count}")


def _split(named: str) -> tuple[str, str]:
    spec, _, last = named.rpartition(":")
    return (spec, last) if spec and last in SPLITS else (named, "train")


def _found(spec: str, source: str) -> Callable[..., Any]:
    if names_file(spec) or spec.startswith(ASSET):
        there = is_file(spec)
        raise UserError(f"{source}: a file takes no keys after '?'" if there else f"prompt file {short(source)} does not exist")
    module_name, _, attr = spec.partition(":")
    if attr and module_name in built_in_names(PACKAGE):
        split = source.partition("?")[0].partition(":")[2]
        raise UserError(f"{source}: '{module_name}' has no split '{split}' ({nearest(split, SPLITS)})")
    try:
        module, name = resolve(spec.lstrip(":"), PACKAGE)
    except UserError as error:
        raise UserError(f"'{short(source)}' is no prompt file that exists, and names no generator: {error}") from error
    make = attribute(module, name or "rows", spec)
    if not callable(make):
        raise UserError(f"'{spec}' is no generator of prompts, which is a function rows(split, count, seed)")
    return make


def _parameters(make: Callable[..., Any]) -> list[str] | None:
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [name for name in parameters if name != "split"]


def _checked(rows: Any, source: str) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"the generator of the prompts '{source}' must return a list of dicts, not {short(repr(rows), 80)}")
    for number, row in enumerate(rows, 1):
        if not plain(row):
            raise UserError(f"{source}, row {number}: must hold nothing but what JSON can hold, not {short(repr(row), 200)}")
    return rows
