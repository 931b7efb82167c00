"""What config sections are made of: strict pydantic models, and components chosen by name."""

import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.moved import GOES
from flowgrpo.core.plugins import component_class, name_of, nearest

S = TypeVar("S", bound="Section")
KeyPath = tuple[int | str, ...]
"""A key, and the keys of the sections around it."""


class UnknownKey(ValueError):
    """`key` is not one of the section's."""

    def __init__(self, key: Any, known: Iterable[str]) -> None:
        super().__init__(f"unknown key '{key}' ({nearest(str(key), known)})")
        self.key = key


class Section(BaseModel):
    """A frozen section that refuses NaN, infinities, true or false for a number, and unknown keys, with the nearest known one.

    `renamed` has the new names of keys that were called otherwise, `key` or `section.key`; the old ones work for a version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    renamed: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for old in cls.renamed.keys() & data.keys():
            data = _with_new_name(data, old, cls.renamed[old])
        for key, value in data.items():
            if key not in cls.model_fields:
                raise UnknownKey(key, cls.model_fields)
            if _holds_truth(value) and {int, float} & _kinds(cls, key) and not {bool, Any} & _kinds(cls, key):
                raise ValueError(f"{key} is a number, not true or false (which yes, no, on and off mean as well)")
        return data


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_holds_truth, value)))


@cache
def _kinds(section: type[BaseModel], key: str) -> frozenset[Any]:
    """The types that the values of a field are made of."""
    return frozenset(_parts(section.model_fields[key].annotation))


def _parts(annotation: Any) -> Iterator[Any]:
    inner = get_args(annotation)
    yield from (part for each in inner for part in _parts(each)) if inner else (annotation,)


def _with_new_name(data: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    warnings.warn(f"{old} is now {new}; the old name goes with version {GOES}", FutureWarning, stacklevel=3)
    section, _, key = new.rpartition(".")
    rest = {name: value for name, value in data.items() if name != old}
    return {**rest, section: {**(rest.get(section) or {}), key: data[old]}} if section else {**rest, key: data[old]}


class Component(Section):
    """A section whose `type` chooses its class: a shipped name, `file.py`, `file.py:Class` or `module:Class`.

    A class does not say its own name: an object that is made without a `type` has the one that a config would find its class by.
    """

    type: str = ""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"type": name_of(cls, package_of(cls)), **data} if isinstance(data, dict) else data


def package_of(component: type[Component]) -> str:
    """The package of flowgrpo that holds components of this kind: where the kind's own class is, right below `Component`."""
    return next(base.__module__ for base in component.__mro__ if Component in base.__bases__)


def class_of(name: str, base: type[Component]) -> type[Component]:
    """The component that a config's `type` names. Errors: UserError where it names none of this kind."""
    return component_class(name, base, package_of(base))


def component(base: type[Component]) -> BeforeValidator:
    """Turn `name` or `{type: name, ...}` into the component that the name stands for."""

    def build(value: Any) -> Any:
        if isinstance(value, base):
            if "." in type(value).__qualname__ and value.type.endswith(type(value).__qualname__):
                raise ValueError(f"'{value.type}' can't be found again; define the class at the top level of a file or notebook")
            return value
        fields = {"type": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            raise ValueError("must be a name or a mapping with a 'type'")
        name = fields["type"]
        try:
            chosen = class_of(name, base)
            if missing := sorted(chosen.__abstractmethods__):
                raise UserError(f"'{name}': class {chosen.__name__} lacks {' and '.join(f'{m}(...)' for m in missing)}")
            with user_code(f"'{name}'", but=ValidationError):
                return chosen.model_validate(fields)
        except UserError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(build)


def or_else(sentence: str) -> WrapValidator:
    """What is said of a value that is none of several kinds, in place of why it is not the first."""

    def validate(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            raise ValueError(sentence) from error

    return WrapValidator(validate)


def checked(section: type[S], tree: dict[str, Any], source: str) -> S:
    """Errors: UserError, one sentence that begins with the source."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        where, message, _ = first_error(error)
        raise UserError(complaint(source, where, message)) from error


def complaint(source: str, where: KeyPath, message: str) -> str:
    """One sentence."""
    return ": ".join(filter(None, [source, ".".join(map(str, where)), message]))


def first_error(error: ValidationError, prefix: KeyPath = ()) -> tuple[KeyPath, str, KeyPath]:
    """Where it is, what it is, and the key that is unknown there, if it is that."""
    first = error.errors()[0]
    where = prefix + first["loc"]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ValidationError):
        return first_error(inner, where)
    key = (inner.key,) if isinstance(inner, UnknownKey) else ()
    return where, str(inner) if inner else first["msg"], key
