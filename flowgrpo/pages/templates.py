"""Pages are Jinja templates, each beside the module that fills it. Values are escaped, and one that is missing is an error."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flowgrpo.pages.marks import colour, number, signed


@cache
def _environment() -> Environment:
    loader = PackageLoader("flowgrpo", "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"number": number, "signed": signed, "colour": colour, "form": format}
    return made


def render(template: str, **values: Any) -> Markup:
    """The template `ROOM/NAME.html.jinja` of the package. It can stand in another one as it is."""
    return Markup(_environment().get_template(template).render(**values))
