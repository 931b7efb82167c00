"""Objects of the running program under names that a config can hold: a reward function, a loaded pipeline."""

import inspect
from collections.abc import Callable
from functools import cache
from types import CodeType
from typing import Any

from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError

OBJECT = "object:"
_held: dict[str, tuple[Any, Callable[[], str]]] = {}


def hold(target: Any, name: str, fingerprint: Callable[[], str]) -> str:
    """The name `object:NAME` by which this process finds the target; `fingerprint` tells it from another, and is asked when
    something on the disk is going to depend on it."""
    spec = f"{OBJECT}{name}"
    _held[spec] = target, cache(fingerprint)
    return spec


def held(spec: str) -> Any:
    """Errors: UserError where this process was given no such object."""
    return _entry(spec)[0]


def fingerprint_of(spec: str) -> str:
    return _entry(spec)[1]()


def _entry(spec: str) -> tuple[Any, Callable[[], str]]:
    if spec not in _held:
        raise UserError(f"'{spec}' is an object that was passed in from Python; pass it in again, with the function of flowgrpo")
    return _held[spec]


def hold_code(target: Callable, label: str) -> str:
    """A function, class or callable object as `object:LABEL:DIGEST`: another code, or another state, has another name."""
    digest = digest_of(_stated(target))
    return hold(target, f"{label}:{digest[:12]}", lambda: digest)


def _stated(target: Callable) -> Any:
    """What tells code from other code: its source, or where there is none its bytecode; and what it carries with it."""
    if inspect.isfunction(target):
        cells = [cell.cell_contents for cell in target.__closure__ or ()]
        return [source_of(target) or _bytecode(target.__code__), target.__defaults__, target.__kwdefaults__, cells]
    if inspect.ismethod(target):
        return [_stated(target.__func__), _stated_object(target.__self__)]
    return source_of(target, repr(target)) if inspect.isclass(target) else _stated_object(target)


def _bytecode(code: CodeType) -> list[Any]:
    inner = [_bytecode(constant) if isinstance(constant, CodeType) else repr(constant) for constant in code.co_consts]
    return [code.co_code.hex(), code.co_names, inner]


def _stated_object(target: Any) -> Any:
    return [source_of(type(target), type(target).__qualname__), vars(target) if "__dict__" in dir(target) else repr(target)]


def source_of(target: Any, otherwise: str = "") -> str:
    """The text of a function or class; where Python has none, `otherwise`."""
    try:
        return inspect.getsource(target)
    except (OSError, TypeError):
        return otherwise
