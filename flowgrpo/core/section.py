"""What config sections are made of: strict pydantic models, and components chosen by name."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.plugins import component_class, nearest


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
