"""A page like report.html, to look at in a notebook or to save."""

import html
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from flowgrpo.core.whole import write_text
from flowgrpo.pages.templates import render


@dataclass(frozen=True)
class Page:
    """Shown by a notebook as it is, or saved as a file that opens offline."""

    title: str
    body: Markup

    def __str__(self) -> str:
        return render("pages/part.html.jinja", title=self.title, body=self.body)

    def save(self, file: Path | str) -> Path:
        write_text(Path(file), str(self))
        return Path(file)

    def _repr_html_(self) -> str:
        return framed(str(self))


def framed(page: str) -> str:
    """A whole page as a part of another, in a frame of its own that is as high as it is."""
    fit = "this.style.height=this.contentDocument.documentElement.scrollHeight+'px'"
    return f'<iframe style="width:100%;height:600px;border:0" onload="{fit}" srcdoc="{html.escape(str(page))}"></iframe>'
