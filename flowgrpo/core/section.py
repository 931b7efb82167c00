"""What config sections are made of: strict pydantic models, and components chosen by name."""

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import component_class, nearest

S = TypeVar("S", bound="Section")
Place = tuple[int | str, ...]
"""A key, and the keys of the sections around it."""


class UnknownKey(ValueError):
    """`key` is not one of the section's."""

    def __init__(self, key: Any, known: Iterable[str]) -> None:
        super().__init__(f"unknown key '{key}' ({nearest(str(key), known)})")
        self.key = key


class Section(BaseModel):
    """A frozen section that refuses NaN, infinities and unknown keys, and names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise UnknownKey(key, cls.model_fields)
        return data


class Component(Section):
    """A section whose `type` chooses its class: a shipped name, `module:Class` or `file.py:Class`."""

    type: str


def component(base: type, package: str) -> BeforeValidator:
    """Turn `name` or `{type: name, ...}` into the component that the name stands for."""

    def build(value: Any) -> Any:
        if isinstance(value, base):
            return value
        fields = {"type": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            raise ValueError("must be a name or a mapping with a 'type'")
        name = fields["type"]
        try:
            found: type[Component] = component_class(name, base, package)
            if missing := sorted(found.__abstractmethods__):
                raise UserError(f"'{name}': class {found.__name__} lacks {' and '.join(f'{m}(...)' for m in missing)}")
            with user_code(f"'{name}'", but=ValidationError):
                return found.model_validate(fields)
        except UserError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(build)


def checked(section: type[S], tree: dict[str, Any], source: str) -> S:
    """Errors: UserError, one sentence that begins with the source."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        where, message, _ = first_error(error)
        raise UserError(complaint(source, where, message)) from error


def complaint(source: str, where: Place, message: str) -> str:
    """One sentence."""
    return ": ".join(filter(None, [source, ".".join(map(str, where)), message]))


def first_error(error: ValidationError, prefix: Place = ()) -> tuple[Place, str, Place]:
    """Where it is, what it is, and the key that is unknown there, if it is that."""
    first = error.errors()[0]
    where = prefix + first["loc"]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, ValidationError):
        return first_error(inner, where)
    key = (inner.key,) if isinstance(inner, UnknownKey) else ()
    return where, str(inner) if inner else first["msg"], key
