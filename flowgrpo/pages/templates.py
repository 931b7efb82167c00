"""Pages are Jinja templates, each beside the module that fills it. Values are escaped, and one that is missing is an error."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def _environment() -> Environment:
    loader = PackageLoader("flowgrpo", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> Markup:
    """The template `ROOM/NAME.html.jinja` of the package. It can stand in another one as it is."""
    return Markup(_environment().get_template(template).render(**values))
