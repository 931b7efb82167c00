"""What `make docs` adds to mkdocs: generated text, pictures of assets/, notebooks, formulas as MathML, and a check of the result.

`<!-- insert: NAME WORD -->` in a page stands for generated text.
"""

import html
import json
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import site_reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
INSERT = re.compile(r"^<!-- insert: (\w+) ?(.*?) -->$", re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """The pictures of assets/, and a page for each notebook."""
    from mkdocs.structure.files import File

    for picture in sorted((ROOT / "assets").glob("*.*")):
        if picture.suffix in (".webp", ".svg"):
            files.append(File.generated(config, f"assets/{picture.name}", abs_src_path=str(picture)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text = notebook_text(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    text = INSERT.sub(lambda found: inserted(found[1], found[2]), markdown)
    return with_site_links(text, posixpath.dirname(page.file.src_uri))


def on_page_content(html: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    return FORMULA.sub(lambda found: formula(found[2], display=found[1] == "div"), html)


def on_post_build(config: "MkDocsConfig") -> None:
    from mkdocs.exceptions import PluginError

    if complaints := site_complaints(Path(config.site_dir)):
        raise PluginError("\n".join(complaints))


def inserted(name: str, word: str) -> str:
    if name in site_reference.INSERTS:
        return site_reference.INSERTS[name]()
    inserts = {"recipe": recipe, "measured": measured, "file": file_text, "drawing": drawing, "code": code}
    return inserts[name](word)


def recipe(method: str) -> str:
    """A method's file as it ships."""
    text = (ROOT / "configs" / "methods" / f"{method}.yaml").read_text(encoding="utf-8")
    return f"`configs/methods/{method}.yaml`:\n\n```yaml\n{text.rstrip()}\n```"


def measured(method: str) -> str:
    """The rows of a method in the tables of the page Evidence, each with the command and the heading that it has there."""
    parts: list[str] = []
    for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", _evidence(), re.MULTILINE | re.DOTALL):
        command = re.search(r"^```\n.*?^```$", body, re.MULTILINE | re.DOTALL)
        for head, rows in re.findall(r"^(\|.*\n\|[-| ]+\|\n)((?:\|.*\n)+)", body, re.MULTILINE):
            own = [row for row in rows.splitlines() if re.match(rf"\|[^|]*[`/]{method}`", row)]
            said = f"From [{heading}](../evidence.md#{anchor(heading)}), which says more:"
            parts += [said, command[0] if command else "", head + "\n".join(own)] if own else []
    return "\n\n".join(parts) or "Nothing is measured at a length that says something."


def _evidence() -> str:
    return (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    """As the toc extension makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def file_text(path: str) -> str:
    """A file beside docs/, without its first heading."""
    return re.sub(r"\A# .*\n", "", (ROOT / path).read_text(encoding="utf-8"))


def code(path: str) -> str:
    """A file below docs/ as it is."""
    text = (ROOT / "docs" / path).read_text(encoding="utf-8")
    language = "bash" if path.endswith(".sh") else "yaml"
    return f"```{language}\n{text.rstrip()}\n```"


def drawing(name: str) -> str:
    """In the page itself, so that it has the colours of the text."""
    svg = (ROOT / "docs" / "drawings" / f"{name}.svg").read_text(encoding="utf-8")
    return f'<div class="drawing">{svg}</div>'


def with_site_links(text: str, folder: str) -> str:
    """Links as they are in the repository lead to where the site has things: pictures, and files that are pages."""
    up = "../" * (folder.count("/") + 1) if folder else ""
    text = re.sub(r"\]\((?:\.\./)*assets/([\w-]+\.(?:webp|svg))\)", rf"]({up}assets/\1)", text)
    text = re.sub(r"\]\((?:\.\./)*CONTRIBUTING\.md", f"]({up}contributing.md", text)
    text = re.sub(r"\]\(((?:\.\./)*notebooks/\w+)\.ipynb\)", r"](\1.md)", text)
    return re.sub(r"\]\(docs/", f"]({up}", text)


def formula(text: str, display: bool) -> str:
    r"""`\(...\)` or `\[...\]`, escaped for HTML, as MathML, which browsers draw without a script."""
    from latex2mathml.converter import convert

    return convert(html.unescape(text.strip())[2:-2].strip(), display="block" if display else "inline")


def notebook_text(notebook: dict[str, Any], name: str) -> str:
    """Markdown: texts as they are, code as code, and what it printed."""
    parts = [_cell(cell) for cell in notebook["cells"]]
    download = f"This page is the notebook [{name}]({name}); the tests run it."
    return "\n\n".join([parts[0], download, *parts[1:]])


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source)
    return "\n\n".join([f"```python\n{source}\n```", *(_output(output) for output in cell.get("outputs", []))])


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        return "".join(data["text/html"])
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"```text\n{text.rstrip()}\n```" if text else ""


class _Loads(HTMLParser):
    """What a page loads, and the links of its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADS and values.get("rel") != "canonical" and (target := values.get(LOADS[tag])):
            self.found.append(target)


def site_complaints(site: Path) -> list[str]:
    """Whatever a page would load from another host, or from a file that is not there."""
    complaints = []
    for page in sorted(site.rglob("*.html")):
        loads = _Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        for target in loads.found:
            if re.match(r"(https?:)?//", target):
                complaints.append(f"{page.relative_to(site)} loads {target} from another host")
            elif not target.startswith("data:") and not _exists(site, page, target):
                complaints.append(f"{page.relative_to(site)} loads {target}, which is not there")
    return complaints


def _exists(site: Path, page: Path, target: str) -> bool:
    path = target.partition("?")[0].partition("#")[0]
    return ((site / path.lstrip("/")) if path.startswith("/") else (page.parent / path)).exists()
